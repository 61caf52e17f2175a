// Names and states for those who hear the page; Play keeps its signs under the theme.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };

function nameControls() {
  for (const box of document.querySelectorAll(".widget-hslider, .widget-selection-slider")) {
    const label = box.querySelector(".widget-label"), value = box.querySelector(".widget-readout");
    const handle = box.querySelector("[role=slider]");
    if (handle && label) handle.setAttribute("aria-label", label.textContent);
    if (handle && value) handle.setAttribute("aria-valuetext", value.textContent);
  }
  for (const group of document.querySelectorAll(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "choose");
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
    }
  }
  for (const picture of document.querySelectorAll("img.widget-image")) {
    const value = picture.closest(".stepper")?.querySelector(".widget-readout");
    picture.alt = value ? `map for ${value.textContent}` : "small picture";
  }
  for (const button of document.querySelectorAll(".widget-play button")) {
    button.setAttribute("aria-label", button.title || "play");
  }
}

window.addEventListener("load", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = { Queue() {} };  // the widgets ask for MathJax 2
  }
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; nameControls(); });
  }).observe(document.body, {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["class"],
  });
  nameControls();
});
