// A name must hold what is written on a button, or a spoken command fails.
for (const button of document.querySelectorAll(".search-button-field")) {
  button.removeAttribute("aria-label");
}
for (const button of document.querySelectorAll(".theme-switch-button")) {
  button.setAttribute("aria-label", "Color mode: Light, Dark, or System Settings");
}
