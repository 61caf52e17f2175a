// What is wider than the window, and scrolls, can be reached with the Tab key.
const boxes = document.querySelectorAll(".drawing, .cell_output .text_html");
const reach = () => boxes.forEach((box) => {
  if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
});
const watch = new ResizeObserver(reach);
boxes.forEach((box) => watch.observe(box));
