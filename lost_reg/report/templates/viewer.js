"use strict";
// The large view: one view of one image of the list, and all of its views as thumbnails below.
// Arrow keys step through images (left, right) and views (up, down); Escape closes it.
const makeViewer = ({ make, letBreak, byId, ratioOf, inputView, sidesOf, reasonLine, items }) => {
  const dialog = byId("viewer");
  let item, key, opener;

  const ringed = (list, index) => list.at(index % list.length);
  const thumbnail = (view) => {
    const button = make("button", "thumbnail", view.draw());
    button.type = "button";
    button.title = view.caption;
    button.ariaLabel = view.title;
    button.dataset.key = view.key;
    button.addEventListener("click", () => { key = view.key; show(); });
    return button;
  };
  const viewsOf = (sides) => [inputView(item), ...sides.flatMap((side) => side.views)];
  const currentOf = (views) => views.find((view) => view.key === key)
    ?? views.find((view) => view.key.endsWith("result")) ?? views[0]; // an image may lack a map

  // The thumbnails of an image are made once, so that the focus stays where it is among them.
  const showStrip = (sides) => {
    const groups = sides.map((side) => make("div", "strip-side",
      make("div", "side-head", make("strong", "", side.name), side.badge),
      make("div", "strip", ...side.views.map(thumbnail)),
      ...side.reasons.map(reasonLine)));
    const input = make("div", "strip-side", make("div", "side-head", make("strong", "", "Input")), make("div", "strip", thumbnail(inputView(item))));
    byId("viewer-strip").replaceChildren(input, ...groups.map(letBreak));
  };
  const show = () => {
    const view = currentOf(viewsOf(sidesOf(item)));
    const list = items();
    byId("viewer-title").textContent = item.name;
    byId("viewer-place").textContent = `${(list.indexOf(item) + 1).toLocaleString("en")} of ${list.length.toLocaleString("en")}`;
    byId("viewer-caption").textContent = `${[item.name, view.of].filter(Boolean).join(", ")}: ${view.caption}`;
    letBreak(byId("viewer-title"));
    letBreak(byId("viewer-caption"));
    const large = (view.large ?? view.draw)();
    large.style.setProperty("--ratio", ratioOf(item));
    byId("viewer-stage").replaceChildren(large);
    for (const button of dialog.querySelectorAll(".thumbnail")) {
      const isCurrent = button.dataset.key === view.key;
      button.ariaCurrent = isCurrent ? "true" : null;
      if (isCurrent) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  };
  const showImage = (next) => {
    item = next;
    showStrip(sidesOf(item));
    show();
  };
  const stepImage = (by) => {
    const list = items();
    showImage(ringed(list, list.indexOf(item) + by));
  };
  const stepView = (by) => {
    const views = viewsOf(sidesOf(item));
    key = ringed(views, views.indexOf(currentOf(views)) + by).key;
    show();
  };

  const KEYS = {
    ArrowLeft: () => stepImage(-1),
    ArrowRight: () => stepImage(1),
    ArrowUp: () => stepView(-1),
    ArrowDown: () => stepView(1),
  };
  dialog.addEventListener("keydown", (event) => {
    const isPlain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
    if (!isPlain || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside it
  dialog.addEventListener("close", () => opener.focus());
  byId("viewer-previous").addEventListener("click", () => stepImage(-1));
  byId("viewer-next").addEventListener("click", () => stepImage(1));
  byId("viewer-close").addEventListener("click", () => dialog.close());
  byId("viewer-boxes").addEventListener("change", (event) => dialog.classList.toggle("without-boxes", !event.target.checked));
  byId("viewer-masks").addEventListener("change", (event) => dialog.classList.toggle("without-masks", !event.target.checked));

  return {
    open: (ofItem, ofKey, from) => {
      [key, opener] = [ofKey, from];
      dialog.showModal();
      byId("viewer-close").focus();
      showImage(ofItem);
    },
  };
};
