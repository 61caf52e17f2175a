// The scripts that are not the book's own come when the page is drawn, if they come.
const own = document.currentScript;
const STATE = "script[type$='widget-state+json']";
const VIEW = "script[type$='widget-view+json']";

function fetchScript(name) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL(own.dataset[name], own.src);
    const hash = own.dataset[`${name}Hash`];
    if (hash) Object.assign(script, { integrity: hash, crossOrigin: "anonymous" });
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
}

function setFormulas() {
  const find = (page) => {
    for (const box of document.querySelectorAll(".math")) {
      const text = box.lastChild, place = { node: text, n: 0, delim: "" };
      const display = box.tagName === "DIV";
      const formula = new page.options.MathItem(text.data, page.inputJax[0], display);
      text.data = "";
      page.math.push(Object.assign(formula, { start: place, end: { ...place } }));
    }
  };
  window.MathJax = { options: { renderActions: { find: [10, find, ""] } } };
  return fetchScript("formulas");
}

async function wakeWidgets() {
  await fetchScript("widgets");
  window.dispatchEvent(new Event("load"));  // they wait for it, and it has been
}

// The first touch of a widget brings its pictures, before they are asked for.
const pictures = [];

function fetchPictures() {
  for (const script of pictures.length ? [] : document.querySelectorAll(STATE)) {
    for (const { model_name, buffers } of Object.values(JSON.parse(script.text).state)) {
      if (model_name !== "ImageModel" || !buffers) continue;
      pictures.push(Object.assign(new Image(), { src: atob(buffers[0].data) }));
    }
  }
}

// Widgets ask for MathJax 2, and are told that it has nothing to do.
function withoutHub() {
  if (window.MathJax) window.MathJax.Hub ??= { Queue() {} };
}

function whenNear(places, wake) {
  const observer = new IntersectionObserver((seen) => {
    if (!seen.some((place) => place.isIntersecting)) return;
    observer.disconnect();
    wake();
  }, { rootMargin: "50%" });
  places.forEach((place) => observer.observe(place));
}

// Names and states for those who hear the page.
const SIGNS = { play: "Play", pause: "Pause", stop: "Stop", retweet: "Repeat" };

function nameStepper(stepper) {
  const all = (what) => [...stepper.querySelectorAll(what)];
  const called = stepper.querySelector(".widget-hslider .widget-label")?.textContent;
  const words = all(".widget-toggle-button"), labels = words.map((w) => w.textContent);
  const pressed = words.findIndex((word) => word.classList.contains("mod-active"));
  for (const handle of all("[role=slider]")) {
    handle.setAttribute("aria-label", called);
    handle.setAttribute("aria-valuetext", labels[pressed] ?? "");
  }
  for (const group of all(".widget-toggle-buttons")) {
    group.setAttribute("aria-label", called);
  }
  const whole = /picture|photograph/.test(labels[0]);  // the first is it without a map
  const about = (label, n) => whole
    ? (n ? `the picture, map of the ${called}: ${label}` : label.replace(/^(?!the )/, "the "))
    : `${called}: ${label}`;
  for (const layer of all("img.widget-image")) layer.alt = "";
  const top = all("img.widget-image").at(-1);  // of the stack, which holds but one
  if (top && pressed >= 0) top.alt = about(labels[pressed], pressed);
}

function nameControls() {
  for (const group of document.querySelectorAll(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    if (!group.closest(".stepper")) group.setAttribute("aria-label", "picture");
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
    }
  }
  for (const picture of document.querySelectorAll("img.widget-image")) {
    const place = [...picture.parentElement.children].indexOf(picture) + 1;
    if (!picture.closest(".stepper")) picture.alt = `picture ${place}`;
  }
  for (const button of document.querySelectorAll(".widget-play button")) {
    const sign = Object.keys(SIGNS).find((sign) => button.querySelector(`.fa-${sign}`));
    button.setAttribute("aria-label", SIGNS[sign]);
  }
  document.querySelectorAll(".stepper").forEach(nameStepper);
}

function keepNames() {
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; nameControls(); });
  }).observe(document.body, {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["class"],
  });
}

window.addEventListener("load", () => {
  const views = [...document.querySelectorAll(VIEW)];
  const places = views.map((view) => view.closest(".cell_output"));
  for (const touch of ["pointerover", "focusin"]) {
    places.forEach((place) => place.addEventListener(touch, fetchPictures));
  }
  const plainly = () => {};  // what stands in the page stays
  if (places.length) {
    keepNames();
    whenNear(places, () => wakeWidgets().catch(plainly));
  }
  if (document.querySelector(".math")) {
    setFormulas().then(withoutHub, plainly);
    withoutHub();
  }
}, { once: true });
