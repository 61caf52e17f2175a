// The theme names some buttons otherwise than it labels them: a voice command fails.
for (const button of document.querySelectorAll(".search-button-field, .theme-switch-button")) {
  button.removeAttribute("aria-label");
}
