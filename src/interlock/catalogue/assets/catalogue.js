// What the pages do beyond HTML: search, filters, sorting, and the difference of two builds. Pages opened from disk may
// not fetch, so data comes as scripts that call `catalogue.names`, `.records` and `.hashes`. Text from the index only
// ever becomes text nodes.
"use strict";

const catalogue = (() => {
  const MOST = 12;
  let base = "";

  // ---- data, loaded once each
  const waiting = new Map(), loaded = new Map();
  function load(path) {
    if (!loaded.has(path)) {
      loaded.set(path, new Promise((resolve) => {
        const script = document.createElement("script");
        waiting.set(path, resolve);
        script.src = base + "data/" + path.split("/").map(encodeURIComponent).join("/") + ".js";
        script.onerror = () => resolve(null);
        document.head.append(script);
      }));
    }
    return loaded.get(path);
  }
  const arrived = (path, value) => { const resolve = waiting.get(path); if (resolve) resolve(value); };
  const names = (list, depth) => arrived("names", { list, depth });
  const records = (file, data) => {
    data.at = new Map(data.r.map((row) => [row[0], row]));
    arrived("packages/" + file, data);
  };
  const hashes = (shard, text) => arrived("hashes/" + shard, text.split("\n"));

  // ---- small helpers
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  const plural = (count, word, many = word + "s") => count.toLocaleString("en") + " " + (count === 1 ? word : many);
  const short = (hash) => hash.slice(0, 7);

  // ---- light and dark
  const KEY = "interlock-catalogue-theme";
  function stored() { try { return localStorage.getItem(KEY); } catch { return null; } }
  if (stored()) document.documentElement.dataset.theme = stored();
  function flip() {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem(KEY, document.documentElement.dataset.theme); } catch { /* private window */ }
  }

  // ---- search: packages by name, builds by the beginning of their hash
  function search() {
    const input = $("#search"), list = $("#found");
    let turn = 0, chosen = -1;
    const items = () => $$("li[role=option]", list);
    function choose(number) {
      const all = items();
      chosen = all.length ? (number + all.length) % all.length : -1;
      all.forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
      if (chosen >= 0) {
        input.setAttribute("aria-activedescendant", all[chosen].id);
        all[chosen].scrollIntoView({ block: "nearest" });
      } else input.removeAttribute("aria-activedescendant");
    }
    function close() { list.hidden = true; input.setAttribute("aria-expanded", "false"); chosen = -1; }
    function option(href, left, right) {
      return el("li", { role: "option", id: "found-" + list.childElementCount, "aria-selected": "false" },
        el("a", { href, tabindex: "-1" }, left, right));
    }
    const marked = (text, from, length) => el("span", {}, text.slice(0, from), el("mark", {}, text.slice(from, from + length)), text.slice(from + length));
    async function update() {
      const mine = ++turn, query = input.value.trim().toLowerCase().replace(/^\//, "");
      if (!query) { close(); return; }
      const known = await load("names");
      if (mine !== turn || !known) return;
      const shard = query.slice(0, known.depth);
      const lines = query.length >= known.depth && /^[a-z0-9]+$/.test(query)
        ? await load("hashes/" + (known.depth ? shard : "all")) : null;
      if (mine !== turn) return;
      list.replaceChildren();
      const packages = known.list.filter((entry) => entry[2] && entry[0].toLowerCase().includes(query));
      packages.sort((one, other) => one[0].toLowerCase().indexOf(query) - other[0].toLowerCase().indexOf(query) || (one[0] < other[0] ? -1 : 1));
      if (packages.length) list.append(el("li", { class: "head", role: "presentation" }, plural(packages.length, "package")));
      for (const [name, file, builds] of packages.slice(0, MOST)) {
        list.append(option(base + "packages/" + encodeURIComponent(file) + ".html", marked(name, name.toLowerCase().indexOf(query), query.length), el("small", {}, plural(builds, "build"))));
      }
      const found = (lines || []).filter((line) => line.startsWith(query));
      if (found.length) list.append(el("li", { class: "head", role: "presentation" }, plural(found.length, "hash", "hashes")));
      for (const line of found.slice(0, MOST)) {
        const at = line.lastIndexOf(" "), hash = line.slice(0, at), [name, file] = known.list[+line.slice(at + 1)];
        const left = marked(hash, 0, query.length);
        left.className = "hash";
        list.append(option(base + "packages/" + encodeURIComponent(file) + ".html#" + encodeURIComponent(hash), left, el("small", {}, name)));
      }
      if (!list.childElementCount) list.append(el("li", { class: "note", role: "presentation" }, query.length < known.depth
        ? "No package has this in its name. Type more of a hash." : "No package has this in its name, and no hash begins with it."));
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
      choose(0);
    }
    input.addEventListener("input", update);
    input.addEventListener("focus", () => { load("names"); if (input.value) update(); });
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") { choose(chosen + 1); event.preventDefault(); }
      else if (event.key === "ArrowUp") { choose(chosen - 1); event.preventDefault(); }
      else if (event.key === "Enter" && items()[chosen]) { $("a", items()[chosen]).click(); close(); input.blur(); }
      else if (event.key === "Escape") { close(); input.blur(); }
    });
    document.addEventListener("click", (event) => { if (!event.target.closest(".search")) close(); });
    list.addEventListener("click", close);
  }

  // ---- filters: any of the values within one facet, all of the facets together
  function filters() {
    const sets = $$("fieldset[data-facet]"), items = $$("[data-item]"), clear = $("#clear");
    for (const item of items) item.numbers = new Set((item.dataset.f || "").split(" "));
    function apply() {
      const wanted = sets.map((set) => $$("input:checked", set).map((input) => input.value)).filter((some) => some.length);
      let rows = 0, builds = 0;
      for (const item of items) {
        item.hidden = !wanted.every((some) => some.some((number) => item.numbers.has(number)));
        if (!item.hidden) { rows += 1; builds += +item.dataset.n; }
      }
      clear.hidden = !wanted.length;
      const what = document.body.dataset.kind === "index" ? "package" : "group";
      const count = what === "group" ? plural(builds, "build") + " in " : "";
      $("#status").textContent = wanted.length ? `${count}${plural(rows, what)} of ${items.length.toLocaleString("en")}` : "";
    }
    for (const set of sets) {
      set.addEventListener("change", apply);
      const all = $(".all", set);
      if (all) all.addEventListener("click", () => { $$(".more", set).forEach((label) => { label.hidden = false; }); all.remove(); });
    }
    if (clear) {
      clear.addEventListener("click", () => { sets.forEach((set) => $$("input", set).forEach((input) => { input.checked = false; })); apply(); });
      if ($$("fieldset input:checked").length) apply(); // kept by the browser on the way back
    }
  }

  function sorting() {
    for (const button of $$("[data-sortable] th button")) {
      button.addEventListener("click", () => {
        const head = button.parentElement, body = $("tbody", head.closest("table")), column = head.cellIndex;
        const number = head.classList.contains("n");
        const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : number;
        $$("th", head.parentElement).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => number ? +row.cells[column].dataset.v : row.cells[column].textContent;
        const rows = [...body.rows].map((row) => [key(row), row]);
        rows.sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0) * (down ? -1 : 1));
        body.append(...rows.map(([, row]) => row));
      });
    }
  }

  // ---- the difference of two builds: the walk of differing.py
  async function record(known, name, hash) {
    const file = known.list[name] && known.list[name][1];
    const data = file === undefined ? null : await load("packages/" + file);
    const row = data && data.at.get(hash);
    if (!row) return null;
    const text = (number) => data.t[number];
    return {
      name: data.name, hash, version: text(row[1]), compiler: text(row[2]), platform: text(row[3]), os: text(row[4]), target: text(row[5]),
      parameters: data.p[row[6]], recipe: text(row[7]), namespace: text(row[8]), external: row[9] ? "yes" : "no",
      edges: row[10].map(([number, there, types, virtuals, other]) => {
        const called = number < 0 ? other : known.list[number][0];
        return { number, name: called, hash: there, types: text(types), virtuals: text(virtuals), key: [called, there, text(types), text(virtuals)].join("\0") };
      }),
    };
  }
  const FLAGS = new Set(["cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs"]);
  function own(left, right) {
    const found = [];
    for (const what of ["version", "compiler", "platform", "os", "target"]) if (left[what] !== right[what]) found.push([what, left[what], right[what]]);
    const mine = new Map(left.parameters), theirs = new Map(right.parameters);
    for (const name of new Set([...mine.keys(), ...theirs.keys()])) {
      const one = mine.get(name) || "", other = theirs.get(name) || "";
      if (one !== other) found.push([FLAGS.has(name) ? "flags" : "variant", one, other]);
    }
    for (const what of ["recipe", "namespace", "external"]) if (left[what] !== right[what]) found.push([what, left[what], right[what]]);
    return found;
  }
  const use = (edge) => edge.types.replaceAll(",", ", ") + (edge.virtuals ? " as " + edge.virtuals.replaceAll(",", ", ") : "");
  function pair(left, right) {
    const has = (edges) => new Set(edges.map((edge) => edge.key));
    const there = has(right.edges), here = has(left.edges), order = (one, other) => (one.key < other.key ? -1 : 1);
    const mine = left.edges.filter((edge) => !there.has(edge.key)).sort(order);
    const theirs = right.edges.filter((edge) => !here.has(edge.key)).sort(order);
    const pairs = [], alone = [], edges = [];
    for (const edge of mine) {
      const same = theirs.filter((other) => other.name === edge.name);
      const partner = same.find((other) => other.hash === edge.hash) || same.find((other) => other.types === edge.types) || same[0];
      if (!partner) { alone.push(edge.name + "/" + edge.hash); continue; }
      theirs.splice(theirs.indexOf(partner), 1);
      pairs.push([edge, partner]);
      if (edge.types !== partner.types || edge.virtuals !== partner.virtuals) edges.push(["use of " + edge.name, use(edge), use(partner)]);
    }
    const same = left.edges.filter((edge) => there.has(edge.key)).map((edge) => edge.hash);
    return { below: pairs.filter(([one, other]) => one.hash !== other.hash), alone, rest: theirs.map((edge) => edge.name + "/" + edge.hash), edges, same };
  }
  async function difference(name, left, right) {
    const known = await load("names"), number = known.list.findIndex((entry) => entry[1] === name);
    const found = { causes: [], carried: [], unknown: [], same: 0 }, same = new Set(), seen = new Set([left + " " + right]);
    let waiting = left === right ? [] : [[number, left, number, right, [known.list[number][0]]]];
    while (waiting.length) {
      // One level at a time, so that its files load side by side.
      const level = await Promise.all(waiting.map(async ([here, one, there, other, path]) => [await record(known, here, one), await record(known, there, other), one, other, path]));
      waiting = [];
      for (const [mine, theirs, one, other, path] of level) {
        if (!mine || !theirs) { found.unknown.push({ path, left: one, right: other }); continue; }
        const met = pair(mine, theirs), changes = own(mine, theirs).concat(met.edges);
        met.same.forEach((hash) => same.add(hash));
        if (!changes.length && !met.alone.length && !met.rest.length && !met.below.length) changes.push(["something that the index does not record", "", ""]);
        if (changes.length || met.alone.length || met.rest.length) {
          found.causes.push({ name: mine.name, path, left: one, right: other, changes, only_left: met.alone, only_right: met.rest });
        } else if (path.length > 1) found.carried.push(path);
        for (const [here, there] of met.below) {
          const key = here.hash + " " + there.hash;
          if (!seen.has(key)) { seen.add(key); waiting.push([here.number, here.hash, there.number, there.hash, [...path, here.name]]); }
        }
      }
    }
    found.same = same.size;
    return found;
  }

  // ---- comparing on a package's page
  function comparing() {
    const picks = $$(".builds input"), rows = new Map($$("tr[data-hash]").map((row) => [row.dataset.hash, row]));
    const tray = $("#tray"), panel = $("#difference"), file = document.body.dataset.package;
    let chosen = [], shown = "";
    const rowOf = (input) => input.closest("tr"), hashOf = (input) => rowOf(input).dataset.hash;
    const side = (hash, which) => el("span", { class: "side " + (which ? "right" : "left"), "data-side": which ? "B" : "A" }, hash);
    function paint() {
      for (const input of picks) {
        const at = chosen.indexOf(hashOf(input));
        input.checked = at >= 0;
        rowOf(input).classList.toggle("is-left", at === 0);
        rowOf(input).classList.toggle("is-right", at === 1);
      }
      tray.hidden = !chosen.length;
      const clear = el("button", { type: "button", onclick: () => pick([]) }, "Clear");
      if (chosen.length === 1) tray.replaceChildren(el("span", {}, "Comparing ", el("span", { class: "hash" }, short(chosen[0])), " with …  choose a second build"), clear);
      if (chosen.length === 2) {
        tray.replaceChildren(
          el("span", { class: "hash" }, short(chosen[0]) + " ⟷ " + short(chosen[1])),
          el("button", { type: "button", onclick: () => { panel.scrollIntoView({ block: "start" }); panel.focus({ preventScroll: true }); } }, "Show difference"),
          el("button", { type: "button", onclick: () => pick([chosen[1], chosen[0]]) }, "Swap"), clear);
      }
    }
    function pick(hashes, jump = false) {
      chosen = hashes;
      paint();
      if (chosen.length === 2) show(chosen[0], chosen[1], jump);
      else if (shown) { panel.hidden = true; shown = ""; history.replaceState(null, "", location.pathname + location.search); }
    }
    async function show(left, right, jump) {
      const key = encodeURIComponent(left) + ".." + encodeURIComponent(right);
      if (shown === key) return;
      shown = key;
      history.replaceState(null, "", "#" + key);
      const found = await difference(file, left, right);
      if (shown !== key) return;
      draw(found, left, right);
      panel.hidden = false;
      if (jump) { panel.scrollIntoView({ block: "start" }); panel.focus({ preventScroll: true }); }
    }
    function sentence({ causes, carried, unknown, same }) {
      const parts = [];
      const here = causes.filter((cause) => cause.path.length === 1).length, below = causes.length - here;
      if (!causes.length && !unknown.length) return "These two are the same build.";
      if (here) parts.push("The builds themselves differ.");
      if (below) parts.push(`${here ? "Below them" : "They differ by their dependencies only:"} ${plural(below, "dependency", "dependencies")} ${below === 1 ? "is" : "are"} the cause.`);
      if (carried.length) parts.push(`${plural(carried.length, "more has", "more have")} another hash only because of ${causes.length === 1 ? "it" : "them"}.`);
      if (unknown.length) parts.push(`${plural(unknown.length, "pair")} cannot be compared: no record of them is in any index.`);
      parts.push(`${plural(same, "dependency is", "dependencies are")} the same.`);
      return parts.join(" ");
    }
    function draw(found, left, right) {
      const lines = [], blocks = new Map(); // causes that differ in exactly the same are one block
      for (const cause of found.causes) {
        const changes = [...cause.changes];
        cause.only_left.forEach((entry) => changes.push(["only in A", label(entry), ""]));
        cause.only_right.forEach((entry) => changes.push(["only in B", "", label(entry)]));
        const key = JSON.stringify(changes);
        if (!blocks.has(key)) blocks.set(key, { changes, causes: [] });
        blocks.get(key).causes.push(cause);
      }
      for (const { changes, causes } of blocks.values()) {
        const who = causes.flatMap(({ name, path }) => [el("b", {}, name), path.length > 1 ? el("span", {}, path.join(" › ")) : null]);
        changes.forEach(([what, one, other], at) => {
          lines.push(el("tr", { class: at ? "" : "first" },
            at ? null : el("td", { class: "who", rowspan: changes.length }, ...who),
            el("td", { class: "attr" }, what), el("td", { class: "l" }, one || "–"), el("td", { class: "r" }, other || "–")));
        });
      }
      const table = lines.length ? el("table", { class: "d-table" },
        el("thead", {}, el("tr", {}, el("th", {}, "Cause"), el("th", {}, "What"), el("th", {}, "A"), el("th", {}, "B"))), el("tbody", {}, ...lines)) : null;
      const more = (title, some) => some.length ? el("details", { class: "d-more" }, el("summary", {}, title), el("ul", {}, ...some.map((path) => el("li", {}, path)))) : null;
      panel.replaceChildren(
        el("div", { class: "d-head" }, el("h2", {}, "Why these two hashes differ"), el("button", { class: "d-close", type: "button", onclick: () => pick([]) }, "Close")),
        el("div", { class: "pair" }, side(left, 0), side(right, 1)),
        el("p", { class: "d-sum" }, sentence(found)), ...[table,
          more(`Carried along: ${found.carried.length}`, found.carried.map((path) => path.join(" › "))),
          more(`Not in any index: ${found.unknown.length}`, found.unknown.map((entry) => `${entry.path.join(" › ")}  ${short(entry.left)} / ${short(entry.right)}`))].filter(Boolean));
    }
    const label = (entry) => { const at = entry.lastIndexOf("/"); return entry.slice(0, at) + " " + short(entry.slice(at + 1)); };
    function follow() {
      const wanted = location.hash.slice(1);
      const two = wanted.split("..").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
      $$("tr.here").forEach((row) => row.classList.remove("here"));
      if (two.length === 2 && rows.has(two[0]) && rows.has(two[1])) pick(two, true);
      else if (rows.has(two[0])) {
        const row = rows.get(two[0]);
        row.closest("details").open = true;
        row.classList.add("here");
        row.scrollIntoView({ block: "center" });
        $("input", row).focus({ preventScroll: true });
      }
    }
    picks.forEach((input) => input.addEventListener("change", () => {
      const hash = hashOf(input);
      if (!input.checked) pick(chosen.filter((other) => other !== hash));
      else pick([...chosen.slice(-1), hash], chosen.length > 0);
    }));
    addEventListener("hashchange", follow);
    follow();
    return (step) => {
      const open = picks.filter((input) => input.offsetParent !== null), at = open.indexOf(document.activeElement);
      const next = open[Math.max(0, Math.min(open.length - 1, at + step))];
      if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    };
  }

  document.addEventListener("DOMContentLoaded", () => {
    base = document.body.dataset.base || "";
    search();
    filters();
    sorting();
    const move = document.body.dataset.kind === "package" ? comparing() : () => {};
    $("#theme").addEventListener("click", flip);
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), textarea, select")) return;
      if (event.key === "/") { $("#search").focus(); $("#search").select(); event.preventDefault(); }
      else if (event.key === "t") flip();
      else if (event.key === "j") move(1);
      else if (event.key === "k") move(-1);
      else if (event.key === "Escape" && $("#difference .d-close")) $("#difference .d-close").click();
    });
  });
  return { names, records, hashes, difference };
})();
