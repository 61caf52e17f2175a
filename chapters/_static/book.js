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

window.addEventListener("load", () => {
  const views = [...document.querySelectorAll(VIEW)];
  const places = views.map((view) => view.closest(".cell_output"));
  for (const touch of ["pointerover", "focusin"]) {
    places.forEach((place) => place.addEventListener(touch, fetchPictures));
  }
  const plainly = () => {};  // what stands in the page stays
  if (places.length) whenNear(places, () => wakeWidgets().catch(plainly));
  if (document.querySelector(".math")) {
    setFormulas().then(withoutHub, plainly);
    withoutHub();
  }
}, { once: true });
