"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const CHUNK = 24;

  // Names of runs and of backbones may also break after each "_": they have few other places.
  const letBreak = (element) => {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const nodes = [];
    while (texts.nextNode()) nodes.push(texts.currentNode);
    for (const node of nodes.filter((one) => one.data.includes("_") && !one.parentElement.closest("svg"))) {
      const parts = node.data.split(/(?<=_)(?!_)/);
      node.replaceWith(...parts.flatMap((part, index) => (index ? [document.createElement("wbr"), part] : [part])));
    }
    return element;
  };
  document.querySelectorAll("main :is(th, td, h3, figcaption, li, p)").forEach(letBreak);

  // --- theme ---

  const theme = byId("theme");
  const remembered = () => {
    try { return localStorage.getItem("lost-reg-theme"); } catch { return null; }
  };
  const applyTheme = () => {
    if (theme.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.value;
  };
  theme.value = remembered() || "auto";
  if (!theme.value) theme.value = "auto";
  applyTheme();
  theme.closest("label").hidden = false;
  theme.addEventListener("change", () => {
    applyTheme();
    try { localStorage.setItem("lost-reg-theme", theme.value); } catch { /* it is just not remembered */ }
  });
  if (!byId("cards")) return;

  // --- elements: all text from outside is set as text ---

  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  };
  const setOptions = (select, options, wanted) => {
    select.replaceChildren(...options.map(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      return option;
    }));
    const values = options.map(([value]) => value);
    select.value = values.includes(wanted) ? wanted : values[0];
  };

  // --- what is shown ---

  const choice = { dataset: byId("dataset"), a: byId("a"), b: byId("b"), show: byId("show"), sort: byId("sort"), tag: byId("tag"), search: byId("search") };
  const ALL = "all";
  const NONE = "none";

  const hasMaps = data.items.some((item) => Object.values(item.entries).some((entry) => entry.maps));
  const datasetIndex = () => (choice.dataset.value === ALL ? null : Number(choice.dataset.value));
  const chosenDatasets = () => (datasetIndex() === null ? data.datasets : [data.datasets[datasetIndex()]]);
  const runsOfChoice = () => {
    const chosen = chosenDatasets();
    return data.runs.map((_, run) => run).filter((run) => chosen.some((dataset) => Object.hasOwn(dataset.runs, run)));
  };
  const fillDatasets = () => {
    const options = data.datasets.map((dataset, index) => [String(index), dataset.name]);
    setOptions(choice.dataset, options.length > 1 ? [[ALL, "all"], ...options] : options, ALL);
    byId("dataset-field").hidden = options.length < 2;
  };
  // Runs of one model on several datasets are one choice; each dataset has its own name of it.
  const namesOf = (run) => [...new Set(chosenDatasets().map((dataset) => dataset.runs[run]).filter(Boolean))].join(", ");
  const fillRuns = () => {
    const runs = runsOfChoice();
    const options = runs.map((run) => [String(run), namesOf(run)]);
    const [first, second] = data.pair.every((run) => runs.includes(run)) ? data.pair : runs;
    const keptA = runs.includes(Number(choice.a.value)) && choice.a.value !== "";
    setOptions(choice.a, options, keptA ? choice.a.value : String(first));
    const others = options.filter(([value]) => value !== choice.a.value);
    // "no other" is kept if it was chosen, not if there was nothing else to choose
    const keptB = choice.b.options.length > 1 && choice.b.value !== choice.a.value;
    setOptions(choice.b, [...others, [NONE, "no other"]], keptB ? choice.b.value : String(second ?? NONE));
    byId("a-field").hidden = runs.length < 2;
    byId("b-field").hidden = runs.length < 2;
  };
  const hasB = () => choice.b.value !== NONE;
  let isScored; // whether the chosen runs have any score
  const fillShow = () => {
    const two = [["both", "found by both"], ["neither", "missed by both"], ["a", "found by A only"], ["b", "found by B only"], ["one", "found by one only"]];
    const one = [["both", "found"], ["neither", "missed"]];
    isScored = data.items.filter(isOffered).some((item) => iouOf(entryA(item)) !== null || iouOf(entryB(item)) !== null);
    const outcomes = hasB() ? two : one;
    setOptions(choice.show, [["all", "all images"], ...(isScored ? outcomes : [])], choice.show.value);
    byId("show-field").hidden = !isScored;
    const sorts = isScored ? [["order", "order in the dataset"], ...sortsByIou()] : [["order", "order of the images"]];
    sorts.push(["name", "file name"]);
    setOptions(choice.sort, sorts, choice.sort.value);
  };
  const sortsByIou = () => {
    const sorts = [];
    if (hasB()) sorts.push(["gain", "IoU difference, B ahead first"], ["loss", "IoU difference, A ahead first"], ["apart", "IoU difference, either way"]);
    sorts.push(["best", hasB() ? "IoU of A, best first" : "IoU, best first"], ["worst", hasB() ? "IoU of A, worst first" : "IoU, worst first"]);
    if (hasB()) sorts.push(["best-b", "IoU of B, best first"], ["worst-b", "IoU of B, worst first"]);
    return sorts;
  };

  // A tag is the class of a true object, or the label of one that a run found.
  const tagsOf = (item) => {
    const found = [entryA(item), entryB(item)].flatMap((entry) => entry?.labels ?? []);
    return new Set([...item.labels, ...found.map((label) => `${label}, found`)]);
  };
  const fillTags = () => {
    const counts = new Map();
    for (const tag of data.items.filter(isOffered).flatMap((item) => [...tagsOf(item)])) counts.set(tag, (counts.get(tag) ?? 0) + 1);
    const options = [...counts].sort(([a], [b]) => a.localeCompare(b, "en")).map(([tag, count]) => [`tag ${tag}`, `${tag} (${count.toLocaleString("en")})`]);
    setOptions(choice.tag, [[ALL, "all"], ...options], choice.tag.value);
    byId("tag-field").hidden = !options.length;
  };

  const entryA = (item) => item.entries[choice.a.value];
  const entryB = (item) => (hasB() ? item.entries[choice.b.value] : undefined);
  const iouOf = (entry) => (entry && entry.iou !== null ? entry.iou : null);
  const isFound = (entry) => iouOf(entry) !== null && !entry.failure && entry.iou >= data.threshold;
  const isMissed = (entry) => iouOf(entry) !== null && !isFound(entry);
  const difference = (item) => {
    const [a, b] = [iouOf(entryA(item)), iouOf(entryB(item))];
    return a === null || b === null ? null : b - a;
  };

  const FILTERS = {
    all: () => true,
    both: (a, b) => isFound(a) && (!hasB() || isFound(b)),
    neither: (a, b) => isMissed(a) && (!hasB() || isMissed(b)),
    a: (a, b) => isFound(a) && isMissed(b),
    b: (a, b) => isFound(b) && isMissed(a),
    one: (a, b) => (isFound(a) && isMissed(b)) || (isFound(b) && isMissed(a)),
  };
  // Each sort gives a number by which items stand in rising order; null stands last.
  const SORTS = {
    order: (item) => item.index,
    gain: (item) => negated(difference(item)),
    loss: (item) => difference(item),
    apart: (item) => negated(difference(item) === null ? null : Math.abs(difference(item))),
    best: (item) => negated(iouOf(entryA(item))),
    worst: (item) => iouOf(entryA(item)),
    "best-b": (item) => negated(iouOf(entryB(item))),
    "worst-b": (item) => iouOf(entryB(item)),
  };
  const negated = (value) => (value === null ? null : -value);
  const inOrder = (a, b) => {
    if (choice.sort.value === "name") return (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) || a.index - b.index;
    const [x, y] = [SORTS[choice.sort.value](a), SORTS[choice.sort.value](b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
    return x - y || a.index - b.index;
  };

  const isOffered = (item) => {
    const wanted = datasetIndex();
    return (wanted === null || item.dataset === wanted) && Boolean(entryA(item) || entryB(item));
  };
  const select = () => {
    const text = choice.search.value.trim().toLowerCase();
    const inDataset = data.items.filter(isOffered);
    const shown = inDataset.filter((item) => FILTERS[choice.show.value](entryA(item), entryB(item))
      && (choice.tag.value === ALL || tagsOf(item).has(choice.tag.value.slice(4)))
      && (!text || [item.name, ...item.labels].some((name) => name.toLowerCase().includes(text))));
    return [shown.sort(inOrder), inDataset.length];
  };

  // --- cards ---

  // Boxes have their lines inside, so that those of the whole image are seen, too.
  const rectangle = ([box, kind]) => {
    const element = make("span", `box ${kind}`);
    const [x, y, right, bottom] = box.map((side) => `${100 * side}%`);
    Object.assign(element.style, { left: x, top: y, width: `calc(${right} - ${x})`, height: `calc(${bottom} - ${y})` });
    return element;
  };
  const ratioOf = (item) => {
    const [height, width] = item.size_hw;
    return Math.min(3, Math.max(1 / 3, width / height)); // what is longer is squeezed, with its boxes
  };
  const pane = (item, ...layers) => {
    const element = make("span", "pane", ...layers);
    element.style.aspectRatio = ratioOf(item);
    return element;
  };
  const photo = (item, description) => {
    if (!item.thumbnail) return make("span", "gone", "no picture");
    const image = make("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = description;
    image.src = item.thumbnail;
    return image;
  };
  const mapLayer = (maps, row, description) => {
    const image = make("img", "map");
    const [high, wide] = maps.covered_hw;
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = description;
    image.src = maps.picture;
    image.style.width = `${100 / wide}%`;
    // maps and the mask, of `rows` rows each, one below the other, each with a row more above and below
    const onePatch = 100 / (high * maps.rows);
    image.style.height = `${(maps.names.length + 1) * (maps.rows + 2) * onePatch}%`;
    image.style.top = `${-(row * (maps.rows + 2) + 1) * onePatch}%`;
    return image;
  };
  const masksLayer = (item, entry, name) => {
    const image = make("img", "masks");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = `masks of ${name} in ${item.name}`;
    image.src = entry.masks;
    return image;
  };
  const titleOf = (map) => (Object.hasOwn(data.map_titles, map) ? data.map_titles[map] : map);
  const panel = (caption, view) => make("figure", "", view, make("figcaption", "", caption));

  const headsOf = (item, entry, name) => {
    const details = make("details", "heads", make("summary", "", "Attention of each token and head"));
    for (const { token, heads, picture } of entry.maps.attention) {
      const image = make("img");
      image.loading = "lazy";
      image.decoding = "async";
      const title = token === "class" ? "class token" : token;
      image.alt = `attention of the ${title} of ${name} in ${item.name}, by head`;
      image.src = picture;
      details.append(panel(`${title}: mean over ${heads} heads, then each head`, image));
    }
    return details;
  };
  // The views of an image: what each is called, and how it is drawn; `large` draws it with all boxes.
  const inputView = (item) => ({ key: "input", of: "", caption: "Input", title: `Input, ${item.name}`, draw: () => pane(item, photo(item, item.name)) });
  const viewsOf = (item, entry, run, side) => {
    const name = nameOf(item, run);
    const [first, ...further] = entry.boxes;
    const found = first ? [[first, "predicted"]] : [];
    const seeds = entry.seed ? [[entry.seed, "seed"]] : [];
    const boxes = [...further.map((box) => [box, "predicted further"]), ...found, ...item.truth.map((box) => [box, "true"])];
    const view = (key, caption, what, draw, large = draw) => ({ key: `${side} ${key}`, of: name, caption, title: `${what} of ${name} in ${item.name}`, draw, large });
    const over = (layers, ...marks) => () => pane(item, ...layers(), ...marks.flat().map(rectangle));

    const masks = () => (entry.masks ? [masksLayer(item, entry, name)] : []);
    const caption = entry.masks ? "Boxes and masks" : "Boxes";
    const picture = () => [photo(item, `${item.name}: ${caption.toLowerCase()} of ${name}`), ...masks()];
    const result = view("result", caption, caption, over(picture, boxes, entry.maps ? [] : seeds), over(picture, boxes, seeds));
    if (!entry.maps) return [result];
    const { names, ranges } = entry.maps;
    const layer = (row, what) => mapLayer(entry.maps, row, `${what} of ${name} in ${item.name}`);
    const maps = names.map((map, row) => {
      const title = titleOf(map);
      const isAttention = map.startsWith("attention of ");
      const range = map === "affinities" || isAttention ? `up to ${ranges[row][1]}` : `${ranges[row][0]} to ${ranges[row][1]}`;
      const marks = map === "norms" || isAttention ? [] : seeds; // a mark would hide artifacts
      const drawn = () => [layer(row, title)];
      return view(map, `${title}, ${range}`, title, over(drawn, marks), over(drawn, boxes, marks));
    });
    const mask = () => [photo(item, ""), layer(names.length, "Mask")];
    return [...maps, view("mask", "Mask", "Mask", over(mask, seeds, found), over(mask, boxes, seeds)), result];
  };
  const opened = (item, view, key = view.key) => {
    const button = make("button", "open", view.draw());
    button.type = "button";
    button.ariaLabel = `Enlarge: ${view.title}`;
    button.ariaHasPopup = "dialog";
    button.addEventListener("click", () => viewer.open(item, key, button));
    return panel(view.caption, button);
  };
  const panels = (item, entry, run, side) => {
    const views = viewsOf(item, entry, run, side).map((view) => opened(item, view));
    views.at(-1).className = "result";
    if (views.length === 1) return make("div", "panels", ...views);
    return make("div", "panels", make("div", "maps", ...views.slice(0, -1)), views.at(-1));
  };
  const outcomeOf = (entry) => {
    if (!entry) return "not in this run";
    if (entry.failure) return "not readable";
    if (!entry.boxes.length) return "nothing found";
    if (entry.iou === null) return "not scored";
    return isFound(entry) ? "found" : "missed";
  };
  const badge = (entry) => {
    const outcome = outcomeOf(entry);
    if (outcome === "not scored" && !isScored) return ""; // as all of them
    const isBad = isMissed(entry) || outcome === "not readable";
    const kind = outcome === "found" ? "found" : isBad ? "missed" : "unknown";
    if (outcome !== "found" && outcome !== "missed") return make("span", `badge ${kind}`, outcome);
    const rounded = entry.iou.toFixed(2);
    const cut = (Math.floor(entry.iou * 1e4) / 1e4).toFixed(4); // lest it be rounded to the threshold
    const shownIou = outcome === "missed" && Number(rounded) >= data.threshold ? cut : rounded;
    return make("span", `badge ${kind}`, `${outcome}, IoU ${shownIou}`);
  };
  const nameOf = (item, run) => data.datasets[item.dataset].runs[run] ?? namesOf(run);
  // What stands in backticks is shown as code.
  const reasonLine = (reason) => make("p", "reason", ...reason.split(/`([^`]+)`/).map((part, index) => (index % 2 ? make("code", "", part) : part)));
  const missing = (entry) => [entry.masks_error, hasMaps && entry.maps_error].filter(Boolean);
  const side = (item, entry, run, letter) => {
    const name = nameOf(item, run);
    const head = make("div", "side-head", make("strong", "", hasB() ? `${letter.toUpperCase()}: ${name}` : name));
    const body = make("div", "");
    if (!entry) {
      body.append(make("p", "reason", "not in this run"));
    } else {
      head.append(badge(entry));
      body.append(entry.failure ? reasonLine(entry.failure) : panels(item, entry, run, letter));
      if (entry.maps && entry.maps.attention.length) body.append(headsOf(item, entry, name));
      body.append(...missing(entry).map(reasonLine));
    }
    return make("div", "side", head, body);
  };
  const card = (item) => {
    const about = [data.datasets.length > 1 ? data.datasets[item.dataset].name : "", item.labels.join(", ")].filter(Boolean).join(" · ");
    const head = make("div", "card-head", make("h3", "", item.name), make("p", "", about));
    const gap = difference(item);
    if (gap !== null) head.append(make("p", "difference", `IoU B − A ${gap < 0 ? "−" : "+"}${Math.abs(gap).toFixed(2)}`));
    const sides = make("div", "sides", opened(item, inputView(item), "a result"));
    sides.firstChild.className = "input";
    sides.append(side(item, entryA(item), choice.a.value, "a"));
    if (hasB()) sides.append(side(item, entryB(item), choice.b.value, "b"));
    sides.classList.toggle("two", hasB());
    const mapped = [entryA(item), entryB(item)].filter((entry) => entry && entry.maps);
    sides.classList.toggle("mapped", mapped.length > 0);
    sides.classList.toggle("attended", mapped.some((entry) => entry.maps.attention.length));
    return letBreak(make("article", "card", head, sides));
  };

  // --- the large view ---

  const sidesOf = (item) => [["a", entryA(item), choice.a.value], ["b", entryB(item), choice.b.value]]
    .filter(([, entry]) => entry)
    .map(([letter, entry, run]) => ({
      name: hasB() ? `${letter.toUpperCase()}: ${nameOf(item, run)}` : nameOf(item, run),
      badge: badge(entry),
      views: entry.failure ? [] : viewsOf(item, entry, run, letter),
      reasons: entry.failure ? [entry.failure] : missing(entry),
    }));
  const viewer = makeViewer({ make, letBreak, byId, ratioOf, inputView, sidesOf, reasonLine, items: () => shown });

  // --- the list, in pieces ---

  const cards = byId("cards");
  const more = byId("more");
  let shown = [];
  let rendered = 0;
  const nearEnd = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && !more.hidden) renderMore();
  }, { rootMargin: "600px" });
  const renderMore = () => {
    cards.append(...shown.slice(rendered, rendered + CHUNK).map(card));
    rendered = Math.min(shown.length, rendered + CHUNK);
    more.hidden = rendered >= shown.length;
    more.textContent = `Show more (${(shown.length - rendered).toLocaleString("en")} left)`;
    nearEnd.unobserve(more); // watched anew, it tells at once if the end is still near
    nearEnd.observe(more);
  };
  // Why the list is of fewer images than the datasets have.
  const elsewhere = (available) => {
    const sum = (name) => chosenDatasets().reduce((total, dataset) => total + dataset[name], 0);
    const more = (count, where) => (count ? [`${count.toLocaleString("en")} more ${count === 1 ? "is" : "are"} ${where}`] : []);
    return [...more(sum("shown") - available, "of other runs"), ...more(sum("images") - sum("shown"), "not on this page")].join(", ");
  };
  const refresh = () => {
    let available;
    [shown, available] = select();
    download.disabled = !shown.length;
    byId("elsewhere").textContent = elsewhere(available);
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${available.toLocaleString("en")} image${available === 1 ? "" : "s"}`;
    cards.replaceChildren();
    cards.classList.toggle("plain", !shown.some((item) => [entryA(item), entryB(item)].some((entry) => entry && entry.maps)));
    rendered = 0;
    renderMore();
  };
  // --- the list as a file ---

  const download = byId("download");
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const listAsCsv = () => {
    const sides = [["a", choice.a.value, entryA], ...(hasB() ? [["b", choice.b.value, entryB]] : [])];
    const columns = sides.flatMap(([letter]) => [`run_${letter}`, `outcome_${letter}`, `iou_${letter}`]);
    const rows = shown.map((item) => [item.name, data.datasets[item.dataset].name, item.labels.join("; "),
      ...sides.flatMap(([, run, entry]) => [nameOf(item, run), outcomeOf(entry(item)), iouOf(entry(item))?.toFixed(4) ?? ""])]);
    return [["image", "dataset", "classes", ...columns], ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
  };
  download.addEventListener("click", () => {
    const link = make("a", "");
    link.href = URL.createObjectURL(new Blob([listAsCsv()], { type: "text/csv" }));
    link.download = "images.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });

  more.addEventListener("click", () => {
    const next = rendered;
    renderMore();
    const heading = cards.children[next]?.querySelector("h3");
    if (heading && document.activeElement === document.body) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
  });
  choice.dataset.addEventListener("change", () => { fillRuns(); fillShow(); fillTags(); refresh(); });
  choice.a.addEventListener("change", () => { fillRuns(); fillShow(); fillTags(); refresh(); });
  choice.b.addEventListener("change", () => { fillShow(); fillTags(); refresh(); });
  choice.tag.addEventListener("change", refresh);
  choice.show.addEventListener("change", refresh);
  choice.sort.addEventListener("change", refresh);
  let pause;
  choice.search.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(refresh, 120); });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  data.items.forEach((item, index) => { item.index = index; });
  fillDatasets();
  fillRuns();
  fillShow();
  fillTags();
  refresh();
  byId("controls").hidden = false;
})();
