// The page of registry-mirror: it shows the documents of /api/v1 and orders what they let it order.
//
// Whatever comes from outside becomes text: only textContent is written, never markup. A login is kept in this
// module's memory alone. Nothing is asked of any other origin.

const STATUS_EVERY = 5_000;
const IMAGES_EVERY = 30_000;
const RECONNECT_AFTER = 3_000;
/** So many images are shown at first, and so many more each time. */
const SHOWN = 100;

const $ = (id) => document.getElementById(id);

// What is known.

/** The session or the token; shown to this origin only. */
let login = null;
const known = { status: null, usage: null, images: null, running: [] };
const view = { span: "since_start", unit: "requests", shown: SHOWN };

// Words and numbers.

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${at === 0 ? bytes : bytes.toFixed(1)} ${units[at]}`;
}

const whole = new Intl.NumberFormat("en");
const count = (number) => whole.format(number);
const counted = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${(ratio * 100).toFixed(1)} %`);

function span(seconds) {
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const [length, name] = units.find(([length]) => seconds >= length) ?? [1, "s"];
  const amount = seconds / length;
  return `${amount >= 10 || length <= 60 ? Math.round(amount) : amount.toFixed(1)} ${name}`;
}

const left = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`;
const ago = (at) => {
  const seconds = (Date.now() - Date.parse(at)) / 1000;
  return seconds < 1 ? "just now" : `${span(seconds)} ago`;
};
const clock = (at) => new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
const short = (digest) => digest.replace(/^(.*:.{12}).*$/, "$1");
const latency = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`);

const STATES = {
  complete: ["●", "complete"],
  "some-platforms": ["◐", "some platforms"],
  partly: ["◔", "in part"],
  missing: ["○", "never fetched"],
};

// Elements.

/** An element with attributes and children; text becomes text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") {
      for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    } else if (value === true) {
      element.setAttribute(key, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(key, value);
    }
  }
  const there = children.flat().filter((child) => child !== null && child !== undefined);
  element.append(...there.map((child) => (typeof child === "string" ? legible(child) : child)));
  return element;
}

const fill = (element, ...children) => element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
const when = (at) => make("time", { datetime: at, title: at }, ago(at));
/** The text of a fragment; one that is none is left as it is. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
/** Text that shows what it holds: what turns the direction of what follows is told. */
const legible = (text) => text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
const digestOf = (digest) => make("code", { title: digest }, short(digest));
const button = (text, act, more = {}) => make("button", { type: "button", on: { click: act }, ...more }, text);

/** Shows text where it changed, so that selections and screen readers are left in peace. */
function write(element, text) {
  const safe = legible(text);
  if (element.textContent !== safe) element.textContent = safe;
}

/** The same for a number, which stands beside the text exactly. */
function tell(id, value, text) {
  const element = $(id);
  element.setAttribute("value", value ?? "");
  write(element, text);
}

function table(element, columns, rows) {
  const head = make("tr", { role: "row" }, columns.map(([name, kind]) =>
    make("th", { role: "columnheader", scope: "col", class: kind }, name || make("span", { class: "unseen" }, "Acts"))));
  const body = rows.map((cells) => make("tr", { role: "row" }, cells.map((cell, at) => {
    const [name, kind] = columns[at];
    return make("td", { role: "cell", class: kind, "data-label": at > 0 && name ? name : null }, cell);
  })));
  fill(element, make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, body));
}

// The interface.

/** What the mirror says against something. */
class Refused extends Error {
  constructor(status, said) {
    super([said.message, said.hint].filter(Boolean).join(" – "));
    this.status = status;
  }
}

async function ask(path, order, signal) {
  const headers = login ? { Authorization: `Bearer ${login}` } : {};
  const request = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (order !== undefined) {
    Object.assign(headers, { "X-Registry-Mirror": "1", "Content-Type": "application/json" });
    Object.assign(request, { method: "POST", body: JSON.stringify(order) });
  }
  const answer = await fetch(`/api/v1/${path}`, request);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ message: `the answer was ${answer.status}` }));
    throw new Refused(answer.status, said);
  }
  return answer;
}

const look = async (path) => (await ask(path)).json();

/** Hands over the documents of an answer, one a line, as they come. */
async function lines(answer, take) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    parts.filter(Boolean).forEach((line) => take(JSON.parse(line)));
  }
}

function say(text, bad = false) {
  $("said").hidden = !text;
  $("said").classList.toggle("bad", bad);
  write($("said"), text);
}

/** Does something that may be refused, and says so. */
async function attempt(act) {
  try {
    await act();
  } catch (error) {
    say(error.message, true);
    if (error.status === 401) openLogin(error.message);
  }
}

// The numbers.

function showNumbers() {
  const used = known.usage?.[view.span];
  if (used) {
    const requests = Object.values(used.requests).reduce((sum, number) => sum + number, 0);
    tell("hit-requests", used.hit_ratio, percent(used.hit_ratio));
    tell("hit-bytes", used.hit_ratio_of_bytes, percent(used.hit_ratio_of_bytes));
    tell("requests", requests, count(requests));
    tell("saved-bytes", used.saved_bytes, size(used.saved_bytes));
    tell("saved-time", used.saved_seconds, span(used.saved_seconds));
    tell("fetched-bytes", used.fetched_bytes, size(used.fetched_bytes));
  }
  if (known.status) {
    showQuota(known.status.upstreams);
    showStore(known.status.store);
  }
}

function showQuota(upstreams) {
  const hub = upstreams.find((upstream) => upstream.host === "docker.io");
  const pulls = hub?.endpoints.map((endpoint) => endpoint.pulls).find(Boolean);
  tell("quota-left", pulls?.left, pulls ? count(pulls.left) : "–");
  write($("quota-of"), pulls ? `of ${count(pulls.limit)} left` : "");
  write($("quota-reset"), pulls ? `resets ${clock(pulls.resets_at)}` : "not told yet");
}

function showStore({ used_bytes: used, budget_bytes: budget, blobs }) {
  tell("store-used", used, size(used));
  write($("store-of"), budget ? `of ${size(budget)}` : "");
  tell("store-blobs", blobs, count(blobs));
  $("store-meter").value = budget ? used / budget : 0;
  const uses = (known.images ?? []).map((image) => image.used_at).filter(Boolean).sort();
  write($("store-oldest"), uses.length ? `, oldest use ${ago(uses[0])}` : "");
}

function showHead() {
  const { program, started_at: started, mode } = known.status;
  write($("program"), `${program}, up ${span((Date.now() - Date.parse(started)) / 1000)}`);
  $("mode").hidden = false;
  write($("mode"), mode);
  write($("looked"), `as of ${new Date().toLocaleTimeString("en-GB")}`);
}

// The day.

const KINDS = [
  ["hit", "hit", ["hit", "revalidated", "tier"]],
  ["join", "joined", ["join"]],
  ["miss", "miss", ["fill", "relayed"]],
  ["stale", "stale", ["stale"]],
];

function showDay() {
  const told = view.unit === "bytes" ? size : count;
  const hours = known.usage.hours.map((hour) => ({
    at: hour.begun_at,
    fetched: hour.fetched_bytes,
    parts: KINDS.map(([, , outcomes]) => outcomes.reduce((sum, outcome) => sum + (hour[view.unit][outcome] ?? 0), 0)),
  }));
  const total = (hour) => hour.parts.reduce((sum, part) => sum + part, 0);
  const most = Math.max(1, ...hours.map(total));
  const svg = $("day");
  const shape = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  };
  fill(svg, hours.map((hour, at) => {
    const group = shape("g", {});
    const title = shape("title", {});
    title.textContent = `${clock(hour.at)}: ${told(total(hour))}`;
    group.append(title, shape("rect", { x: at * 40 + 4, y: 178, width: 32, height: 2, class: "none" }));
    let top = 180;
    hour.parts.forEach((part, kind) => {
      const height = (part / most) * 174;
      top -= height;
      if (part) group.append(shape("rect", { x: at * 40 + 4, y: top, width: 32, height, class: KINDS[kind][0] }));
    });
    return group;
  }));
  const sums = KINDS.map((_, kind) => hours.reduce((sum, hour) => sum + hour.parts[kind], 0));
  svg.setAttribute("aria-label", `The last 24 hours: ${KINDS.map(([, name], kind) => `${told(sums[kind])} ${name}`).join(", ")}`);
  fill($("legend"), KINDS.map(([style, name], kind) =>
    make("li", {}, make("span", { class: `swatch ${style}`, "aria-hidden": "true" }), `${name} ${told(sums[kind])}`)));
  write($("day-begin"), clock(hours[0].at));
  const columns = [["Hour", ""], ...KINDS.map(([, name]) => [name, "number"]), ["fetched from upstreams", "number"]];
  table($("day-table"), columns, hours.map((hour) => [clock(hour.at), ...hour.parts.map(told), size(hour.fetched)]));
}

// Fills.

function showFills() {
  const list = $("fills");
  const there = new Map([...list.children].map((item) => [item.dataset.key, item]));
  fill(list, known.running.map((running) => {
    const key = `${running.repository}@${running.digest}`;
    const item = there.get(key) ?? make("li", { "data-key": key },
      make("div", { class: "what" }, make("span", {}, running.repository, " ", digestOf(running.digest)), make("span", { class: "dim" })),
      make("progress", { "aria-label": `Filling ${running.repository} ${short(running.digest)}` }));
    write(item.querySelector(".dim"), told(running));
    const bar = item.querySelector("progress");
    if (running.size_bytes) {
      bar.max = running.size_bytes;
      bar.value = running.written_bytes;
    } else {
      bar.removeAttribute("value");
    }
    return item;
  }));
  $("fills-none").hidden = known.running.length > 0;
  write($("fills-count"), known.running.length ? count(known.running.length) : "");
}

function told(running) {
  const of = running.size_bytes ? ` of ${size(running.size_bytes)}` : "";
  const parts = [`${size(running.written_bytes)}${of}`];
  if (running.per_second_bytes !== null) parts.push(`${size(running.per_second_bytes)}/s`);
  parts.push(`${counted(running.readers, "client")} attached`);
  if (running.left_seconds !== null) parts.push(left(running.left_seconds));
  return parts.join(" · ");
}

/** Follows what goes on, as long as the page is there. */
async function follow() {
  for (;;) {
    try {
      const answer = await ask("events");
      write($("live"), "live");
      $("live").classList.remove("bad");
      await lines(answer, (fills) => {
        const ended = known.running.length > fills.fills.length;
        known.running = fills.fills;
        showFills();
        if (ended) refresh();
      });
    } catch (error) {
      const away = !(error instanceof Refused);
      write($("live"), away ? "no answer" : "not live");
      $("live").classList.toggle("bad", away);
    }
    await new Promise((done) => setTimeout(done, RECONNECT_AFTER));
  }
}

// Upstreams.

const ENDPOINT = { up: "up", down: "down", probing: "down, being tried", limited: "limits our rate" };

function showUpstreams() {
  const quiet = (upstream) => upstream.filling + upstream.waiting === 0
    && upstream.endpoints.every((end) => end.state === "up" && !end.last_error && !end.pulls && !end.answered_at);
  const rows = known.status.upstreams.filter((upstream) => !quiet(upstream)).flatMap((upstream) =>
    upstream.endpoints.map((end, at) => [
      at === 0 ? make("strong", {}, upstream.host) : "",
      [make("span", { class: end.state === "probing" ? "down" : end.state }, ENDPOINT[end.state]),
        make("span", { class: "small" }, end.url)],
      end.latency_seconds === null ? "" : latency(end.latency_seconds),
      end.pulls ? [`${count(end.pulls.left)} of ${count(end.pulls.limit)}`,
        make("span", { class: "small" }, `resets ${clock(end.pulls.resets_at)}`)] : "",
      end.answered_at ? when(end.answered_at) : "",
      end.last_error ? [`${end.last_error.class} `, when(end.last_error.failed_at)] : "",
    ]));
  $("upstreams").hidden = rows.length === 0;
  table($("upstreams"), [["Upstream", "name"], ["State", ""], ["Answers in", "number"], ["Quota", "number"],
    ["Last success", ""], ["Last error", ""]], rows);
  const rest = known.status.upstreams.filter(quiet).map((upstream) => upstream.host);
  const fares = known.status.mode === "offline" ? "never asked" : "not asked since the start";
  write($("upstreams-quiet"), rest.length ? `${rest.join(", ")}: ${fares}` : "");
}

// Problems.

function showProblems() {
  const found = known.status.problems;
  $("problems").hidden = found.length === 0;
  write($("problems-title"), `Problems (${found.length})`);
  const items = found.map(({ about, message, hint }) =>
    make("li", {}, make("strong", {}, about), `: ${message}`, hint ? ` – to do: ${hint}` : null));
  const said = items.map((item) => item.textContent).join("\n");
  if ($("problem-list").dataset.said !== said) {
    $("problem-list").dataset.said = said;
    fill($("problem-list"), items);
  }
}

// Images.

const ORDERS = {
  used: (a, b) => (b.used_at ?? "").localeCompare(a.used_at ?? ""),
  name: (a, b) => called(a.image).localeCompare(called(b.image)),
  size: (a, b) => b.stored_bytes - a.stored_bytes,
  state: (a, b) => Object.keys(STATES).indexOf(a.state) - Object.keys(STATES).indexOf(b.state),
};

/** What people call it: Docker Hub's own images without what nobody types. */
const called = (image) => image.replace(/^docker\.io\/(library\/)?/, "");
const address = (image) => `#image=${encodeURIComponent(image)}`;

function showImages() {
  if (!known.images) return;
  const wanted = $("search").value.trim().toLowerCase();
  const found = known.images.filter((image) => image.image.toLowerCase().includes(wanted));
  found.sort((a, b) => ORDERS[$("sort").value](a, b) || ORDERS.name(a, b));
  const rows = found.slice(0, view.shown).map((image) => {
    const [mark, words] = STATES[image.state];
    return [
      [make("span", { class: `state ${image.state}`, role: "img", "aria-label": words, title: words }, mark), " ",
        make("a", { href: address(image.image) }, called(image.image)),
        image.pinned ? make("span", { class: "tag" }, "pinned") : null,
        image.frozen ? make("span", { class: "tag" }, "frozen") : null],
      image.platforms.length > 3 ? counted(image.platforms.length, "platform") : image.platforms.join(", "),
      size(image.stored_bytes),
      image.used_at ? when(image.used_at) : "never",
      button(image.pinned ? "Unpin" : "Pin", () => attempt(() => pin(image)), {
        "aria-label": `${image.pinned ? "Unpin" : "Pin"} ${called(image.image)}`,
      }),
    ];
  });
  const focused = document.activeElement?.getAttribute?.("aria-label");
  const here = $("images").contains(document.activeElement);
  table($("images"), [["Image", "name"], ["Platforms", ""], ["Size", "number"], ["Last used", ""], ["", "act"]], rows);
  if (here && focused) $("images").querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  $("images").hidden = rows.length === 0;
  $("images-none").hidden = rows.length > 0;
  write($("images-none"), known.images.length ? "No image has that in its name." : "No image was pulled yet.");
  $("images-more").hidden = found.length <= view.shown;
  write($("images-count"), wanted ? `${count(found.length)} of ${count(known.images.length)}` : count(known.images.length));
}

async function pin(image) {
  await ask(image.pinned ? "unpin" : "pin", { images: [image.image] });
  say(`${called(image.image)}: ${image.pinned ? "no longer pinned" : "pinned"}`);
  await refreshImages();
  await route();
}

// One image.

/** What there is to say of an image that never came and is listed, as it is pinned or frozen; else why it is not known. */
async function listed(name, error) {
  if (error.status !== 404) throw error;
  known.images = (await look("images")).images;
  const image = known.images.find((image) => image.image === name);
  if (!image) throw error;
  return { ...image, media_type: "", images: [], history: [] };
}

/** The image whose page is asked for, if it is one. */
const meant = () => (window.location.hash.startsWith("#image=") ? decoded(window.location.hash.slice(7)) : null);

/** Whose page stands there. */
let pictured = null;

async function showImage(name) {
  const way = make("p", {}, make("a", { href: "#" }, "← All images"));
  const bare = () => fill($("image"), way, make("h1", { id: "image-title", tabindex: "-1" }, called(name)));
  // Nothing of another image stays there, whatever comes of this one.
  if (pictured !== name) bare();
  pictured = null;
  const [detail, status, images] = await Promise.all([
    look(`images/inspect?${new URLSearchParams({ image: name })}`).catch((error) => listed(name, error)),
    known.status ?? look("status"),
    known.images ?? look("images").then((answer) => answer.images),
  ]).catch((error) => {
    if (meant() === name) bare();
    throw error;
  });
  // Somebody may have gone on meanwhile.
  if (meant() !== name) return null;
  known.status ??= status;
  known.images ??= images;
  const [mark, words] = STATES[detail.state];
  const title = make("h1", { id: "image-title", tabindex: "-1" }, make("span", { class: `state ${detail.state}`, "aria-hidden": "true" }, `${mark} `), called(name));
  fill($("image"),
    way,
    title,
    make("dl", { class: "facts" }, facts([
      ["Name", make("code", {}, name)],
      ["Stored", `${words}${detail.missing_bytes ? `, ${size(detail.missing_bytes)} missing` : ""}`],
      ["Size", sizes(detail)],
      ["Digest", make("code", {}, detail.digest ?? "not known")],
      ["Media type", make("code", {}, detail.media_type || "not known")],
      ["Checked", detail.checked_at ? when(detail.checked_at) : "never"],
      ["Last used", detail.used_at ? when(detail.used_at) : "never"],
      ["Kept", [detail.pinned ? "pinned" : null, detail.frozen ? "frozen" : null].filter(Boolean).join(", ") || "as long as there is room"],
    ])),
    acts(detail),
    pulls(name),
    platforms(detail),
    others(name),
    history(detail));
  pictured = name;
  return title;
}

function sizes({ stored_bytes: stored, own_bytes: own }) {
  return own === undefined ? size(stored) : `${size(stored)}: ${size(own)} its own, ${size(stored - own)} shared with other images`;
}

const facts = (pairs) => pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);

function section(title, ...content) {
  const id = `part-${title.toLowerCase().replaceAll(" ", "-")}`;
  return make("section", { "aria-labelledby": id }, make("h2", { id }, title), ...content);
}

function acts(detail) {
  const name = detail.image;
  const done = make("p", { id: "act-said", role: "status" });
  const each = (text, act, more) => button(text, () => attempt(() => act(done)), more);
  return make("div", {}, make("div", { class: "row", role: "group", "aria-label": "Acts" },
    each(detail.pinned ? "Unpin" : "Pin", () => pin(detail)),
    each("Verify", (done) => verify(name, done)),
    each("Export", (done) => exported(name, done)),
    each("Forget", (done) => forget(name, done), { class: "danger" })), done);
}

async function verify(name, said) {
  write(said, "Reading it all …");
  const answer = await ask("verify", { images: [name] });
  await lines(answer, (finding) => {
    if (finding.document === "error") throw new Refused(500, finding);
    if (finding.event === "progress" && finding.of_bytes) write(said, `Read ${size(finding.checked_bytes)} of ${size(finding.of_bytes)}`);
    if (finding.event === "done") {
      const bad = finding.damaged ? `${counted(finding.damaged, "damaged part")}; fetch them again with registry-mirror verify --repair` : "all of it is what its digests say";
      write(said, `Verified ${counted(finding.checked, "part")}, ${size(finding.checked_bytes)}: ${bad}`);
    }
  });
}

async function exported(name, said) {
  write(said, "Exporting …");
  const answer = await ask("export", { images: [name] });
  const file = URL.createObjectURL(await answer.blob());
  make("a", { href: file, download: `${called(name).replaceAll(/[^A-Za-z0-9._-]/g, "-")}.tar` }).click();
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
  write(said, "Exported: docker load, podman load and registry-mirror import read the file.");
}

async function forget(name, said) {
  if (!await sure(`Forget ${called(name)}?`, "Its name, its pin, its freeze, and what no other tag of its repository needs are forgotten. The bytes go with the next gc; upstream still has it.")) return;
  await ask("forget", { images: [name] });
  say(`${called(name)}: forgotten`);
  await refreshImages();
  location.hash = "";
  write(said, "");
}

async function fetched(name, platform, said) {
  write(said, `Fetching ${platform ?? "it"} …`);
  const order = platform ? { images: [name], platforms: [platform] } : { images: [name], all_platforms: true };
  let bytes = 0;
  const answer = await ask("pull", order);
  await lines(answer, (event) => {
    if (event.document === "error") throw new Refused(500, event);
    if (event.event === "finished" && event.fetched) write(said, `Fetched ${size(bytes += event.size_bytes)}`);
    if (event.event === "failed") throw new Refused(502, event);
  });
  await refreshImages();
  await route();
  const shown = $("act-said");
  if (shown) write(shown, `${platform ?? "All of it"} is stored`);
}

/** How four clients pull it past any set-up of theirs. */
function pulls(name) {
  const at = (known.status?.listening ?? []).map((text) => new URL(text));
  if (!at.length) return null;
  // Most clients read no address of IPv6.
  const isSix = (name) => name.startsWith("[");
  const first = at.find((url) => !isSix(url.hostname)) ?? at[0];
  const here = (name) => ["127.0.0.1", "[::1]", "localhost"].includes(name);
  const name4 = (name) => (!isSix(name) ? name : here(name) ? "localhost" : "mirror.example");
  const named = here(first.hostname) && !here(location.hostname) ? location.hostname : first.hostname;
  const host = [name4(named), first.port].filter(Boolean).join(":");
  const plain = first.protocol === "http:";
  if (name.slice(0, name.indexOf("/")).includes(":")) {
    return section("Pull it", make("p", {}, "Its registry has a port, which stands in no other image’s name: a client that is set up pulls it by its own name."));
  }
  const image = `${host}/${name}`;
  return section("Pull it", make("div", { class: "pulls" }, [
    ["docker", `docker pull ${image}`],
    ["podman", `podman pull ${plain ? "--tls-verify=false " : ""}${image}`],
    ["containerd", `ctr images pull ${plain ? "--plain-http " : ""}${image}`],
    ["skopeo", `skopeo copy ${plain ? "--src-tls-verify=false " : ""}docker:${"//"}${image} oci:${"image"}`],
  ].flatMap(([client, line]) => [make("span", {}, client), make("pre", { tabindex: "0", role: "region", "aria-label": `Pull with ${client}` }, line), copying(line, client)])));
}

function copying(text, what) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      write(copy, "Copied");
    } catch {
      write(copy, "Not allowed");
    }
    setTimeout(() => write(copy, "Copy"), 2_000);
  }, { "aria-label": `Copy the line for ${what}` });
  return copy;
}

function platforms(detail) {
  const said = make("p", { role: "status" });
  const parts = detail.images.map((image) => make("details", { open: detail.images.length === 1 },
    make("summary", {},
      make("span", { class: image.complete ? "state complete" : "state partly" }, image.complete ? "●" : "◔"),
      ` ${image.platform ?? "no platform"}, ${image.complete ? "complete" : "not complete"}`),
    image.complete ? null : make("p", {}, button(`Fetch ${image.platform ?? "it"}`, () => attempt(() => fetched(detail.image, image.platform, said)))),
    layers(image)));
  return section("Platforms", said, ...parts);
}

function layers({ manifest, blobs }) {
  const rows = [manifest, ...blobs].map((part) => [
    digestOf(part.digest),
    make("span", { class: "code" }, part.media_type),
    size(part.size_bytes),
    part.damaged ? make("span", { class: "bad" }, "damaged") : part.stored ? "stored" : "missing",
    part.shared ? "shared" : "its own",
  ]);
  const element = make("table", { class: "wide", role: "table", "aria-label": "Parts" });
  table(element, [["Part", ""], ["Media type", ""], ["Size", "number"], ["", ""], ["", ""]].map(([name, kind], at) => [["Part", "Media type", "Size", "Stored", "Used by"][at] ?? name, kind]), rows);
  return element;
}

/** The other tags of its repository. */
function others(name) {
  const repository = name.replace(/(@[^/]*|:[^/]*)$/, "");
  const tags = (known.images ?? []).map((image) => image.image)
    .filter((image) => image !== name && image.replace(/(@[^/]*|:[^/]*)$/, "") === repository);
  if (!tags.length) return null;
  return section("Other tags", make("ul", {}, tags.map((tag) => make("li", {}, make("a", { href: address(tag) }, called(tag))))));
}

function history({ history: seen }) {
  if (!seen.length) return null;
  const rows = seen.toReversed().map((entry) => [make("code", {}, entry.digest), make("span", {}, when(entry.seen_at)), entry.from]);
  const element = make("table", { class: "wide", role: "table", "aria-label": "What the tag was seen to have" });
  table(element, [["Digest", ""], ["First seen", ""], ["From", ""]], rows);
  return section("History of the tag", element);
}

// The configuration.

async function showConfiguration() {
  const { file, settings, origins } = await look("config");
  const title = make("h1", { tabindex: "-1" }, "The configuration in force");
  const parts = Object.entries(settings).flatMap(([name, values]) =>
    (Array.isArray(values) ? values : [values]).map((values, at) => [Array.isArray(settings[name]) ? `${name}[${at}]` : name, values]));
  fill($("configuration"),
    make("p", {}, make("a", { href: "#" }, "← Overview")),
    title,
    make("p", { class: "dim" }, file ? `From ${file}, the environment and flags. ` : "There is no file. ", "Secrets are in files of their own and not shown."),
    ...parts.map(([name, values]) => settingsOf(name, values, origins)));
  return title;
}

function settingsOf(name, values, origins) {
  const flat = (path, value) => (value !== null && typeof value === "object" && !Array.isArray(value)
    ? Object.entries(value).flatMap(([key, inner]) => flat(`${path}.${key}`, inner)) : [[path, value]]);
  const rows = flat(name, values).map(([path, value]) => {
    const from = origins[path] ?? "default";
    return [make("code", {}, path.slice(name.length + 1)), make("code", {}, JSON.stringify(value)), make("span", { class: from === "default" ? "dim" : "" }, from)];
  });
  const element = make("table", { class: "wide", role: "table", "aria-label": `Settings of ${name}` });
  table(element, [["Key", ""], ["Value", ""], ["Set by", ""]], rows);
  return section(values.host ? `upstream ${values.host}` : name, element);
}

// Logging in.

function openLogin(why = "") {
  write($("login-said"), why);
  if (!$("login").open) $("login").showModal();
  $("token").focus();
  // Where no token is set, none is asked for. Who may not look is not told, and may have one.
  look("config").then(({ settings }) => {
    for (const id of ["by-token", "login-do"]) $(id).hidden = !settings.server.admin_token;
  }, () => {});
}

async function enter() {
  const token = $("token").value.trim();
  $("token").value = "";
  login = token || null;
  try {
    // Only who may act is let in: a wrong token is refused, whatever it is shown for.
    await look("session");
    $("login").close();
    loggedIn();
  } catch (error) {
    login = null;
    write($("login-said"), error.message);
  }
}

function loggedIn() {
  write($("who"), login ? "Log out" : "Log in");
  say("");
  refresh();
  refreshImages();
  route();
}

/** The login in the fragment of the address, which is good once. */
async function redeem(code) {
  forgetLogin();
  try {
    const { session } = await (await ask("login", { login: code })).json();
    login = session;
    loggedIn();
  } catch (error) {
    say(`The login in the address is not good: ${error.message}`, true);
  }
}

const forgetLogin = () => window.history.replaceState(null, "", "/");

function sure(title, text) {
  write($("sure-title"), title);
  write($("sure-text"), text);
  $("sure").returnValue = "";
  $("sure").showModal();
  return new Promise((done) => $("sure").addEventListener("close", () => done($("sure").returnValue === "yes"), { once: true }));
}

// What is shown, and when.

async function refresh() {
  try {
    [known.status, known.usage] = await Promise.all([look("status"), look("usage")]);
    showHead();
    showNumbers();
    showDay();
    showUpstreams();
    showProblems();
    if ($("said").dataset.away) {
      delete $("said").dataset.away;
      say("");
    }
  } catch (error) {
    $("said").dataset.away = "yes";
    say(error instanceof Refused ? error.message : "The mirror does not answer.", true);
    if (error.status === 401 && !known.status && !view.asked) {
      view.asked = true;
      openLogin(error.message);
    }
  }
}

async function refreshImages() {
  try {
    known.images = (await look("images")).images;
    showImages();
    if (known.status) showStore(known.status.store);
  } catch {
    // What is refused is said where the status is asked for.
  }
}

let routed = null;

async function route() {
  const fragment = window.location.hash.slice(1);
  if (fragment.startsWith("login=")) return redeem(decoded(fragment.slice(6)));
  const image = meant();
  // What was said of another place is not said of this one.
  if (routed !== fragment && $("said").classList.contains("bad")) say("");
  const pages = { overview: !image && fragment !== "configuration", image: Boolean(image), configuration: fragment === "configuration" };
  Object.entries(pages).forEach(([id, shown]) => { $(id).hidden = !shown; });
  document.title = image ? `${called(image)} – registry-mirror` : "registry-mirror";
  await attempt(async () => {
    const title = image ? await showImage(image) : pages.configuration ? await showConfiguration() : null;
    if (routed !== null && routed !== fragment) (title ?? $("main")).focus();
  });
  routed = fragment;
  return undefined;
}

function chosen(key, show) {
  for (const choice of document.querySelectorAll(`[data-${key}]`)) {
    choice.addEventListener("click", () => {
      view[key] = choice.dataset[key];
      document.querySelectorAll(`[data-${key}]`).forEach((other) => other.setAttribute("aria-pressed", other === choice));
      if (known.usage) show();
    });
  }
}

function begin() {
  chosen("span", showNumbers);
  chosen("unit", showDay);
  $("search").addEventListener("input", () => { view.shown = SHOWN; showImages(); });
  $("sort").addEventListener("change", showImages);
  $("images-more").addEventListener("click", () => { view.shown += SHOWN; showImages(); });
  $("who").addEventListener("click", () => {
    if (!login) return openLogin();
    login = null;
    return loggedIn();
  });
  $("login-do").addEventListener("click", enter);
  $("token").addEventListener("keydown", (event) => { if (event.key === "Enter") enter(); });
  $("login-not").addEventListener("click", () => $("login").close());
  $("login").addEventListener("close", () => { $("token").value = ""; write($("login-said"), ""); });
  $("sure-yes").addEventListener("click", () => $("sure").close("yes"));
  $("sure-no").addEventListener("click", () => $("sure").close("no"));
  document.querySelector(".home").addEventListener("click", (event) => { event.preventDefault(); window.location.hash = ""; });
  window.addEventListener("hashchange", route);
  const visibly = (act, every) => setInterval(() => { if (!document.hidden) act(); }, every);
  visibly(refresh, STATUS_EVERY);
  visibly(refreshImages, IMAGES_EVERY);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}

begin();
if (!window.location.hash.startsWith("#login=")) {
  refresh();
  refreshImages();
}
route();
follow();
