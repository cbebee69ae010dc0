"use strict";

const byId = (id) => document.getElementById(id);
const pictures = JSON.parse(byId("data").textContent);
const grid = byId("grid"), search = byId("search"), model = byId("model"), sort = byId("sort");
const large = byId("large");
const number = new Intl.NumberFormat();
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

let shown = [];  // the pictures that match, in their order on the page
let current = null;  // the one in the large view

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const sizeOf = (picture) => (picture.width ? `${picture.width} × ${picture.height}` : "");
const seedOf = (picture) => (picture.seed === null ? "" : `seed ${picture.seed}`);

// Text that a narrow card omits; the large view has it.
const detail = (text, before, after) =>
  element("span", { className: "detail", textContent: text && before + text + after });

function timeOf(picture) {
  if (picture.created === null) return "";
  const date = new Date(picture.created * 1000);
  return element("time", { dateTime: date.toISOString(), textContent: day.format(date) });
}

// Images are loaded shortly before they are visible: in Chromium, `loading="lazy"` ignores data: and file: URLs.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    target.src = target.picture.thumbnail || target.picture.url;
  }
}, { rootMargin: "1200px" });

function card(picture) {
  const image = element("img", { alt: "", decoding: "async", width: 320, height: 240 });
  image.picture = picture;
  const button = element("button", { type: "button" },
    image,
    element("span", { className: "text" },
      element("span", { className: "prompt", dir: "auto", textContent: picture.prompt }),
      element("span", { className: "meta" }, picture.model, detail(seedOf(picture), " · ", "")),
      element("span", { className: "meta" }, detail(sizeOf(picture), "", " · "), timeOf(picture))));
  button.addEventListener("click", () => open(picture));
  picture.words = [picture.prompt, picture.model, picture.seed, picture.task, picture.url]
    .join("\n").toLowerCase();
  picture.item = element("li", {}, button);
  near.observe(image);
}

const byText = new Intl.Collator(undefined, { numeric: true }).compare;
const newest = (one, other) => (other.created ?? 0) - (one.created ?? 0);
const orders = {
  newest,
  oldest: (one, other) => (one.created ?? 0) - (other.created ?? 0),
  prompt: (one, other) => byText(one.prompt, other.prompt) || newest(one, other),
  model: (one, other) => byText(one.model, other.model) || newest(one, other),
  seed: (one, other) => Number(one.seed ?? Infinity) - Number(other.seed ?? Infinity) || newest(one, other),
  size: (one, other) => other.width * other.height - one.width * one.height || newest(one, other),
};

function update() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = pictures
    .filter((picture) => (!model.value || picture.model === model.value) &&
      words.every((word) => picture.words.includes(word)))
    .sort(orders[sort.value]);
  grid.replaceChildren(...shown.map((picture) => picture.item));
  byId("none").hidden = shown.length > 0;
  const all = `${number.format(pictures.length)} ${pictures.length === 1 ? "picture" : "pictures"}`;
  byId("count").textContent = shown.length === pictures.length ? all : `${number.format(shown.length)} of ${all}`;
}

function fact(name, ...content) {
  if (content.some((each) => each !== "" && each !== null)) {
    byId("facts").append(element("dt", { textContent: name }), element("dd", {}, ...content));
  }
}

function open(picture) {
  current = picture;
  const place = shown.indexOf(picture);
  const image = byId("picture");
  byId("missing").hidden = true;
  image.onerror = () => {
    image.onerror = null;
    byId("missing").hidden = false;
    if (picture.thumbnail) image.src = picture.thumbnail;
  };
  image.style.backgroundImage = picture.thumbnail ? `url("${picture.thumbnail}")` : "";
  image.alt = picture.prompt;
  image.src = picture.url;
  byId("file").href = picture.url;
  byId("prompt").textContent = picture.prompt;
  byId("prompt").classList.toggle("long", picture.prompt.length > 240);
  byId("place").textContent = `${number.format(place + 1)} of ${number.format(shown.length)}`;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === shown.length - 1;
  byId("facts").replaceChildren();
  fact("Model", picture.model);
  fact("Seed", picture.seed === null ? "not set" : picture.seed);
  fact("Size", sizeOf(picture));
  fact("Created", timeOf(picture));
  for (const [name, value] of picture.settings) fact(name, value);
  fact("Task", picture.task);
  fact("File", element("a", { href: picture.url, target: "_blank", rel: "noopener", textContent: picture.name }));
  // Short words are not broken: a line must not end after the dashes of an option.
  byId("command").replaceChildren(...picture.command.split(/( )/).map((word) =>
    (word.length > 32 ? word : element("span", { className: word === " " ? "" : "word", textContent: word }))));
  byId("note").textContent = picture.note;
  byId("copy").textContent = "Copy";
  for (const neighbour of [shown[place - 1], shown[place + 1]]) {
    if (neighbour) new Image().src = neighbour.url;
  }
  if (!large.open) large.showModal();
  large.focus();
  large.scrollTop = large.querySelector(".about").scrollTop = 0;
}

function turn(step) {
  const picture = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + step))];
  if (picture !== current) open(picture);
}

async function copy() {
  const command = byId("command");
  let done = true;
  try {
    await navigator.clipboard.writeText(command.textContent);
  } catch {  // no clipboard for a page over plain http
    getSelection().selectAllChildren(command);
    done = document.execCommand("copy");
  }
  byId("copy").textContent = done ? "Copied" : "Press Ctrl+C";
}

pictures.forEach(card);
for (const name of [...new Set(pictures.map((picture) => picture.model))].filter(Boolean).sort(byText)) {
  model.append(element("option", { value: name, textContent: name }));
}
update();

search.addEventListener("input", update);
model.addEventListener("change", update);
sort.addEventListener("change", () => { update(); scrollTo(0, 0); });
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("all").addEventListener("click", () => {
  search.value = model.value = "";
  update();
  search.focus();
});
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("close").addEventListener("click", () => large.close());
byId("copy").addEventListener("click", copy);
large.addEventListener("close", () => {
  byId("picture").removeAttribute("src");
  // This event comes after the dialog has closed: the user may be typing, and the card may be filtered out.
  if (byId("controls").contains(document.activeElement)) return;
  const button = current.item.firstChild;
  button.scrollIntoView({ block: "nearest" });
  button.focus();
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (large.open && event.key in steps) {
    event.preventDefault();
    turn(steps[event.key]);
  } else if (event.key === "/" && !large.open && event.target !== search) {
    event.preventDefault();
    search.focus();
  }
});
