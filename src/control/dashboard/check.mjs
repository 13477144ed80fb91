// The dashboard in a browser, while the tracker is under load and when it is gone.
//
//     node check.mjs PACKAGES PAGE_URL LOCKED_URL TOKEN BROWSER_URL LOAD_PID TRACKER_PID \
//         [FOLDER]
//
// PACKAGES is the folder that has `node_modules`, and BROWSER_URL is where a running Chromium
// offers its DevTools protocol. LOCKED_URL is the page of another tracker, which wants TOKEN. The
// processes LOAD_PID and TRACKER_PID are asked to stop when they have been watched long enough. In
// FOLDER a picture of each view is left. Ends with 0 if everything holds.

import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, pageUrl, lockedUrl, secret, browserUrl, loadPid, trackerPid, folder] =
    process.argv.slice(2);

const STEP_MS = 12_000;
const LOAD_MS = 20_000;
const CHARTS = 8;
// So many seconds are on the pictures.
const SAMPLES = 9;
const WIDE = { width: 1440, height: 900 };
const NARROW = { width: 375, height: 812 };
const VIEWS = [
    { name: "wide-light", size: WIDE, colorScheme: "light" },
    { name: "wide-dark", size: WIDE, colorScheme: "dark" },
    { name: "narrow-light", size: NARROW, colorScheme: "light" },
    { name: "narrow-dark", size: NARROW, colorScheme: "dark" },
];

const playwright = join(packages, "node_modules", "playwright-core/index.mjs");
const { chromium } = await import(pathToFileURL(playwright));
const { origin } = new URL(pageUrl);

const say = (text) => console.log(`    ${text}`);
let complaints = [];

/** A page of its own browsing context, of which every complaint is kept. */
async function open(browser, name, { size, colorScheme }, prepare = async () => {}) {
    const context = await browser.newContext({ viewport: size });
    const page = await context.newPage();
    page.setDefaultTimeout(STEP_MS);
    const complain = (text) => complaints.push(`${name}: ${text}`);
    page.on("console", (message) => {
        if (["error", "warning"].includes(message.type())) complain(message.text());
    });
    page.on("pageerror", (error) => complain(error.stack));
    page.on("requestfailed", (request) => complain(`${request.url()} failed`));
    page.on("request", (request) => {
        const url = new URL(request.url());
        if (url.protocol !== "data:" && url.origin !== origin) complain(`asks ${url}`);
    });
    await page.emulateMedia({ colorScheme });
    await prepare(page);
    const response = await page.goto(pageUrl);
    assert.equal(response.status(), 200);
    const policy = response.headers()["content-security-policy"] ?? "";
    assert.match(policy, /default-src 'self'/, `${name}: the policy is "${policy}"`);
    return page;
}

/** Waits until `condition` holds in the page. */
async function until(page, name, what, condition, argument, timeout = STEP_MS) {
    try {
        await page.waitForFunction(condition, argument, { timeout });
    } catch {
        throw new Error(`${name}: ${what}: not within ${timeout} ms`);
    }
}

const samplesOf = (page) => page.evaluate(() => Number(document.body.dataset.samples));
const pictures = (page) => page.evaluate(() =>
    [...document.querySelectorAll(".plot canvas")].map((canvas) => canvas.toDataURL()));

/** Under load: figures and charts move, and everything has its place. */
async function checkLive(page, { name, size, colorScheme }) {
    await until(page, name, "is live", () => document.body.dataset.state === "live");
    await until(page, name, "announces a second", () =>
        /[1-9]/.test(document.getElementById("figure-announces").textContent));
    const [samples, before] = [await samplesOf(page), await pictures(page)];
    assert.equal(before.length, CHARTS, `${name}: charts`);
    await until(page, name, "two more points", (least) =>
        Number(document.body.dataset.samples) >= least, samples + 2);
    const after = await pictures(page);
    const same = after.flatMap((picture, index) => (picture === before[index] ? [index] : []));
    assert.deepEqual(same, [], `${name}: charts that did not change`);

    // Loaded every 15 seconds.
    await until(page, name, "swarms in the table", () =>
        /^[0-9a-f]{40}$/.test(document.querySelector("#swarms tbody td")?.textContent ?? ""),
    undefined, 20_000);
    const seen = await page.evaluate(() => ({
        headings: document.querySelectorAll("h1").length,
        landmarks: ["header", "main", "footer"].map((tag) => document.querySelector(tag) !== null),
        heads: ["swarms", "clients"].map((id) =>
            document.querySelectorAll(`#${id} table thead th[scope=col]`).length),
        health: document.getElementById("health").innerText,
        legends: [...document.querySelectorAll(".legend .value")].map((node) => node.textContent),
        bars: document.querySelectorAll("#bars .worker").length,
        styled: document.querySelectorAll("[onclick], script:not([src])").length,
        width: document.documentElement.scrollWidth,
        ground: getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number),
    }));
    assert.equal(seen.headings, 1, name);
    assert.deepEqual(seen.landmarks, [true, true, true], name);
    assert.deepEqual(seen.heads, [5, 4], `${name}: heads of the tables`);
    // What else runs on this machine may well be worth a word.
    const isHealth = /Health[^]*(Nothing to report|Problem|Warning)/.test(seen.health);
    assert(isHealth, `${name}: ${seen.health}`);
    assert.match(seen.legends[0], /^[\d,.]+k?\/s$/, `${name}: legend ${seen.legends[0]}`);
    assert(seen.bars > 0, `${name}: no worker`);
    assert.equal(seen.styled, 0, name);
    assert(seen.width <= size.width, `${name}: ${seen.width} pixels wide`);
    const isLight = seen.ground.every((part) => part > 200);
    assert.equal(isLight, colorScheme === "light", `${name}: ground ${seen.ground}`);

    await until(page, name, `${SAMPLES} points`, (least) =>
        Number(document.body.dataset.samples) >= least, SAMPLES);
    if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Keys move the cursor of the charts, and the legend says what was there. */
async function checkKeys(page) {
    const plot = page.locator("#announces .plot");
    await plot.focus();
    await page.keyboard.press("Home");
    const first = await plot.getAttribute("aria-valuenow");
    assert.equal(first, "0");
    assert.match(await page.locator("#latency time").textContent(), /^\d\d:\d\d:\d\d$/);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#latency time").textContent(), "");
}

/** The switch of the colours is remembered. */
async function checkTheme(page) {
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme ?? "auto");
    assert.equal(await theme(), "auto");
    await page.click("#theme");
    await page.click("#theme");
    assert.equal(await theme(), "dark");
    await page.reload();
    assert.equal(await theme(), "dark");
    await page.click("#theme");
    assert.equal(await theme(), "auto");
}

/** A page that needs a token asks for it, sends it, and is live then. */
async function checkToken(browser) {
    const name = "with a token";
    const lock = (page) => page.route("**/api/**", (route) => {
        const isOpen = route.request().headers().authorization === "Bearer secret-1";
        return isOpen ? route.continue() : route.fulfill({ status: 401 });
    });
    const page = await open(browser, name, { size: NARROW, colorScheme: "light" }, lock);
    for (const token of ["wrong", "secret-1"]) {
        await page.locator("#gate").waitFor();
        assert(!(await page.locator("#main").isVisible()));
        await page.fill("#token", token);
        await page.click("#gate button");
    }
    await until(page, name, "is live", () => document.body.dataset.state === "live");
    assert(await page.locator("#main").isVisible());
    await page.context().close();
    // The browser itself reports every 401.
    complaints = complaints.filter((text) => !(text.startsWith(name) && /401|failed/.test(text)));
}

/** A tracker that wants a token lets a browser in that has it as anybody's password. */
async function checkLocked(browser) {
    // Without one the browser asks its user.
    const refused = await fetch(lockedUrl);
    assert.equal(refused.status, 401);
    assert.match(refused.headers.get("www-authenticate"), /^Basic /);

    const httpCredentials = { username: "operator", password: secret };
    const page = await (await browser.newContext({ httpCredentials })).newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.stack));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    assert.equal((await page.goto(lockedUrl)).status(), 200);
    await until(page, "locked", "is live", () => document.body.dataset.state === "live");
    await until(page, "locked", "three points", () => Number(document.body.dataset.samples) >= 3);
    assert(!(await page.locator("#gate").isVisible()));
    assert.deepEqual(errors, []);
    await page.context().close();
    say("a tracker with a token is watched by who has it");
}

/** Without the tracker, the page says so. */
async function checkLost(page, name) {
    await until(page, name, "says that it is not live", () =>
        /not live/i.test(document.getElementById("live").innerText)
            && /not live/i.test(document.getElementById("lost").innerText)
            && /trying again/i.test(document.getElementById("lost").innerText));
    assert((await samplesOf(page)) > 0, `${name}: what was there is gone`);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert(width <= page.viewportSize().width, `${name}: ${width} pixels wide`);
}

async function check() {
    const browser = await chromium.connectOverCDP(browserUrl, { timeout: STEP_MS });
    const pages = await Promise.all(VIEWS.map((view) => open(browser, view.name, view)));
    await Promise.all(pages.map((page, index) => checkLive(page, VIEWS[index])));
    say(`${VIEWS.length} views are live and complete`);
    await checkKeys(pages[0]);
    process.kill(Number(loadPid), "SIGINT");
    await until(pages[0], "wide", "no announces after the load", () =>
        document.getElementById("figure-announces").textContent === "0/s", null, LOAD_MS);
    assert.deepEqual(complaints, []);
    await checkToken(browser);
    await checkLocked(browser);
    assert.deepEqual(complaints, []);

    // From here on requests are left unfinished, which the browser itself reports.
    await checkTheme(pages[3]);
    await until(pages[3], VIEWS[3].name, "is live", () => document.body.dataset.state === "live");
    const before = await samplesOf(pages[0]);
    process.kill(Number(trackerPid), "SIGTERM");
    await Promise.all(pages.map((page, index) => checkLost(page, VIEWS[index].name)));
    assert((await samplesOf(pages[0])) >= before);
    say("without the tracker they say that they are not live");
}

try {
    await check();
} catch (error) {
    console.error(error.stack);
    for (const complaint of complaints) console.error(complaint);
    process.exit(1);
}
process.exit(0);
