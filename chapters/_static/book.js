// Names and states for those who hear the page; Play keeps its signs under the theme.
// An older theme (Python 3.10) has read its settings by now, and takes changes to them.
window.FontAwesomeConfig = Object.assign(window.FontAwesomeConfig ?? {}, { autoReplaceSvg: "nest" });

function nameControls() {
  for (const box of document.querySelectorAll(".widget-hslider, .widget-selection-slider")) {
    const label = box.querySelector(".widget-label"), value = box.querySelector(".widget-readout");
    const handle = box.querySelector("[role=slider]");
    if (handle && label) handle.setAttribute("aria-label", label.textContent);
    if (handle && value) handle.setAttribute("aria-valuetext", value.textContent);
  }
  for (const group of document.querySelectorAll(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    const label = group.closest(".stepper")?.querySelector(".widget-label");
    group.setAttribute("aria-label", label ? label.textContent : "picture");
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
    }
  }
  for (const picture of document.querySelectorAll("img.widget-image")) {
    const stepper = picture.closest(".stepper");
    const [label, value] = ["label", "readout"].map((part) => stepper?.querySelector(`.widget-${part}`));
    const place = [...picture.parentElement.children].indexOf(picture) + 1;
    picture.alt = value ? `${label.textContent}: ${value.textContent}` : `picture ${place}`;
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
