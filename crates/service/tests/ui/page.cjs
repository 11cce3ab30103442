// Drives the operators' page in Chromium. Its argument is JSON: where the page and the API are, the tokens, and
// where pictures go. It prints what it has seen as JSON; whoever started it judges that.
"use strict";
const http = require("node:http");
const { chromium } = require("playwright-core");

const asked = JSON.parse(process.argv[2]);
const seen = { errors: [] };

/// A proxy that takes away a path prefix, and keeps the host that the browser names.
function proxy(prefix, port) {
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith(prefix)) {
      response.writeHead(404).end();
      return;
    }
    const path = request.url.slice(prefix.length);
    const options = { host: "127.0.0.1", port, path, method: request.method, headers: request.headers };
    const onward = http.request(options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  return new Promise((ready) => server.listen(0, "127.0.0.1", () => ready(server)));
}

/// Asks the operators' API, as somebody else who works on the same records.
async function api(method, path, body) {
  const answer = await fetch(asked.api + path, {
    method,
    headers: { authorization: `Bearer ${asked.token}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return answer.json();
}

const address = (key) => `tenant=${asked.tenant}&namespace=pay&key=${encodeURIComponent(key)}`;
const record = (key) => api("GET", `/v1/record?${address(key)}`);

async function signIn(page, base) {
  await page.goto(`${base}/ui/`);
  await page.fill("#token", asked.token);
  await page.click("form.card button");
  await page.waitForSelector("h2:has-text('Records by state')");
}

async function shot(page, name) {
  if (asked.shots) await page.screenshot({ path: `${asked.shots}/${name}.png`, fullPage: true });
}

/// Notes every error that the browser reports, but those that a step expects.
function watch(page) {
  let expected = [];
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !expected.some((part) => text.includes(part))) seen.errors.push(text);
  });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  return {
    async while(parts, step) {
      expected = parts;
      await step();
      expected = [];
    },
  };
}

async function signingIn(page, watched) {
  await page.goto(`${asked.page}/ui/record?${address(asked.hostile)}`);
  seen.led_to = new URL(page.url()).pathname;
  await shot(page, "sign-in");
  await watched.while(["403"], async () => {
    await page.fill("#token", "no-such-token-012345");
    await page.click("form.card button");
    seen.wrong_token = await page.textContent(".notice.bad");
  });
  await page.fill("#token", asked.token);
  await page.click("form.card button");
  await page.waitForSelector("h1 bdi");
  seen.led_back_to = await page.textContent("h1 bdi");
}

const tile = (page, name) => page.locator(`.tile.${name} strong`).innerText();

async function overview(page) {
  await page.goto(`${asked.page}/ui/`);
  seen.unknown_before = await tile(page, "unknown");
  seen.groups = await page.locator("caption:has-text('By tenant')").first().locator("..").innerText();
  await shot(page, "overview");
  // Somebody deletes a record elsewhere, and the page notices by itself.
  await page.evaluate(() => { window.sameDocument = true; });
  const { version } = await record(asked.other);
  await api("DELETE", `/v1/record?${address(asked.other)}&version=${version}`);
  await page.waitForFunction(
    (before) => document.querySelector(".tile.unknown strong").innerText !== before,
    seen.unknown_before,
    { timeout: 20_000 },
  );
  seen.unknown_after = await tile(page, "unknown");
  seen.same_document = await page.evaluate(() => window.sameDocument === true);
}

async function search(page) {
  await page.keyboard.press("/");
  seen.focus = await page.evaluate(() => document.activeElement.name);
  await page.keyboard.type(asked.hostile);
  await page.keyboard.press("Enter");
  await page.waitForURL("**/ui/search?*");
  seen.found = await page.locator("td.key").allInnerTexts();
  await page.goto(`${asked.page}/ui/search?state=executing`);
  seen.executing = await page.locator("td.key").allInnerTexts();
  await page.goto(`${asked.page}/ui/search`);
  await shot(page, "search");
  await page.goto(`${asked.page}/ui/search?text=${encodeURIComponent(asked.hostile)}`);
  await page.keyboard.press("Tab");
  await page.click("td.key a");
  await page.waitForSelector("h1 bdi");
  seen.heading = await page.textContent("h1 bdi");
}

async function stored(page) {
  await page.goto(`${asked.page}/ui/record?${address(asked.done)}`);
  seen.headers = await page.locator("table.headers").innerText();
  seen.body_before = await page.locator("pre.body").count();
  await shot(page, "record");
  await page.fill("form[action=body] input[name=reason]", "a test");
  await page.click("text=Show the body");
  seen.body = await page.textContent("pre.body");
}

/// Fills in one of the forms, and goes on to the question whether it is meant.
async function fill(page, name, fields) {
  const action = page.locator("details.action", { has: page.locator(`input[name=to][value=${name}]`) });
  await action.locator("summary").click();
  for (const [field, value] of Object.entries(fields)) await action.locator(`[name=${field}]`).fill(value);
  await action.locator("button").click();
  await page.waitForSelector("text=Is this what you want?");
}

async function change(page, watched) {
  await page.goto(`${asked.page}/ui/record?${address(asked.stuck)}`);
  seen.time_line = await page.locator("ol.line").innerText();
  await shot(page, "unknown");
  await fill(page, "completed", { status: "201", body: "{\n  \"id\": \"<b>7</b>\"\n}", reason: "the bank says so" });
  seen.question = await page.textContent("main");
  await shot(page, "confirm");
  seen.before_yes = (await record(asked.stuck)).state;
  await page.click("text=Yes, do it");
  await page.waitForSelector("text=Done: the record is completed now");
  seen.resolved = await record(asked.stuck);
  // Somebody else is faster.
  await page.goto(`${asked.page}/ui/record?${address(asked.raced)}`);
  const { version } = await record(asked.raced);
  await fill(page, "failed", { reason: "not done" });
  await api("POST", "/v1/record/resolve", {
    tenant: asked.tenant, namespace: "pay", key: asked.raced, version,
    to: { state: "completed", status: 200, tombstone: true },
  });
  await watched.while(["412"], async () => {
    await page.click("text=Yes, do it");
    await page.waitForSelector(".notice.bad");
  });
  seen.conflict = await page.textContent(".notice.bad");
  await shot(page, "conflict");
  seen.raced = await record(asked.raced);
  await page.goto(`${asked.page}/ui/record?${address(asked.gone)}`);
  await fill(page, "deleted", { reason: "made by a test" });
  seen.warning = await page.textContent(".notice.warn");
  await page.click("text=Yes, do it");
  await page.waitForSelector("text=The record was deleted");
  seen.gone = (await record(asked.gone)).type;
}

async function behindPrefix(page, server) {
  const base = `http://127.0.0.1:${server.address().port}/ops/idem`;
  await signIn(page, base);
  await page.click("nav a[href=search]");
  await page.waitForSelector("table.records");
  await page.locator("td.key a").first().click();
  await page.waitForSelector("h1 bdi");
  seen.prefixed = new URL(page.url()).pathname;
  await page.click("text=Sign out");
  await page.waitForSelector("#token");
  await page.goto(`${base}/ui/`);
  seen.signed_out = new URL(page.url()).pathname;
}

async function looks(browser) {
  const views = {
    "overview-dark": { colorScheme: "dark", viewport: { width: 1280, height: 800 } },
    "overview-phone": { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true },
  };
  for (const [name, view] of Object.entries(views)) {
    const context = await browser.newContext(view);
    const page = await context.newPage();
    watch(page);
    await signIn(page, asked.page);
    await shot(page, name);
    await page.goto(`${asked.page}/ui/record?${address(asked.executing)}`);
    seen[name] = await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth);
    if (view.isMobile) await shot(page, "record-phone");
    await context.close();
  }
}

async function main() {
  const browser = await chromium.launch({
    executablePath: asked.chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
  });
  const server = await proxy("/ops/idem", new URL(asked.page).port);
  try {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    const watched = watch(page);
    page.setDefaultTimeout(20_000);
    await signingIn(page, watched);
    await overview(page);
    await search(page);
    await stored(page);
    await looks(browser);
    await change(page, watched);
    await behindPrefix(page, server);
    seen.hacked = await page.evaluate(() => window.hacked ?? null);
  } finally {
    // The browser first: it may still ask for something.
    await browser.close();
    server.close();
    server.closeAllConnections();
  }
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error, JSON.stringify(seen));
  process.exit(1);
});
