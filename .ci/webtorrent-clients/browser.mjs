// Two pages of a browser exchange a file by WebTorrent; the tracker is all that they share. Then a
// third one downloads what another program seeds.
//
//     node browser.mjs PACKAGES TRACKER_URL PAGE_PORT BROWSER_URL MAGNET SHA256
//
// PACKAGES is the folder that has `node_modules` and webtorrent's bundle, TRACKER_URL has `ws:` or
// `wss:`, the pages are served on PAGE_PORT of 127.0.0.1, and BROWSER_URL is where a running
// Chromium offers its DevTools protocol. MAGNET and SHA256 name what the other program seeds. Ends
// with 0 if everything holds.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [packages, trackerUrl, pagePort, browserUrl, magnet, sha256] = process.argv.slice(2);

const FILE_BYTES = 256 * 1024;
const FILE_NAME = "file.bin";
const PAGE_MS = 15_000;
const DOWNLOAD_MS = 40_000;
const COUNTS_MS = 5_000;

const PAGE = `<!doctype html><meta charset="utf-8"><title>WebTorrent</title>
<link rel="icon" href="data:,">
<script type="module">
    import WebTorrent from "/webtorrent.min.js";
    globalThis.newClient = () => {
        const tracker = { rtcConfig: { iceServers: [] } };
        return new WebTorrent({ dht: false, lsd: false, utPex: false, webSeeds: false, tracker });
    };
</script>`;

const load = (path) => import(pathToFileURL(join(packages, "node_modules", path)));
const { default: Client } = await load("bittorrent-tracker/client.js");
const { chromium } = await load("playwright-core/index.mjs");

const say = (text) => console.log(`    ${text}`);

async function serve() {
    const bundle = await readFile(join(packages, "webtorrent.min.js"));
    const files = { "/": ["text/html", PAGE], "/webtorrent.min.js": ["text/javascript", bundle] };
    const server = createServer((request, response) => {
        const [type, content] = files[request.url] ?? ["text/plain", undefined];
        response.writeHead(content === undefined ? 404 : 200, { "Content-Type": type });
        response.end(content);
    });
    await new Promise((resolve, reject) => {
        server.on("error", reject);
        server.listen(Number(pagePort), "127.0.0.1", resolve);
    });
}

// A page in a profile of its own. Only pages that may use a microphone let WebRTC see each network
// interface, the loopback one among them: there may be no other.
async function open(browser, name) {
    const permissions = ["microphone"];
    const context = await browser.newContext({ ignoreHTTPSErrors: true, permissions });
    const page = await context.newPage();
    page.setDefaultTimeout(PAGE_MS);
    page.on("console", (message) => console.error(`${name}: ${message.text()}`));
    page.on("pageerror", (error) => console.error(`${name}: ${error.stack}`));
    await page.goto(`http://127.0.0.1:${pagePort}/`);
    await page.waitForFunction(() => globalThis.newClient !== undefined);
    return page;
}

// Runs in the page. Resolves when the torrent is there.
function seed([name, base64, url]) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new Promise((resolve, reject) => {
        const client = newClient();
        client.on("error", (error) => reject(error));
        const torrent = client.seed(new File([bytes], name), { announce: [url] }, () => {
            resolve({ infoHash: torrent.infoHash, announce: torrent.announce });
        });
        torrent.on("warning", (error) => reject(error));
        torrent.on("error", (error) => reject(error));
    });
}

// Runs in the page. Resolves when the whole file is there.
function download([magnet]) {
    return new Promise((resolve, reject) => {
        const client = newClient();
        client.on("error", (error) => reject(error));
        const torrent = client.add(magnet);
        torrent.on("warning", (error) => reject(error));
        torrent.on("error", (error) => reject(error));
        const wires = [];
        torrent.on("wire", (wire) => wires.push(wire.type));
        torrent.on("done", async () => {
            const [file] = torrent.files;
            const bytes = await (await file.blob()).arrayBuffer();
            const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
            const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0"));
            const { announce, files } = torrent;
            const [{ name, length }] = files;
            resolve({ announce, name, length, wires, sha256: sha256.join("") });
        });
    });
}

// Waits until a scrape shows this many seeders and leechers. WebRTC is not needed for that, but
// the library wants to be told so.
async function counts(infoHash, complete, incomplete) {
    const deadline = performance.now() + COUNTS_MS;
    for (;;) {
        const seen = await new Promise((resolve, reject) => {
            Client.scrape({ announce: trackerUrl, infoHash, wrtc: {} }, (error, result) =>
                error ? reject(error) : resolve([result.complete, result.incomplete]));
        });
        if (seen[0] === complete && seen[1] === incomplete) break;
        if (performance.now() > deadline) {
            throw new Error(`seeders and leechers ${seen} instead of ${[complete, incomplete]}`);
        }
        await sleep(50);
    }
    say(`seeders ${complete}, leechers ${incomplete}`);
}

// Lets a page download a file. Resolves to its length when all of it is there, and is right.
async function fetchAll(page, magnet, sha256) {
    const late = sleep(DOWNLOAD_MS).then(() => {
        throw new Error(`not downloaded within ${DOWNLOAD_MS} ms`);
    });
    const begun = performance.now();
    const whole = `${magnet}&tr=${encodeURIComponent(trackerUrl)}`;
    const downloaded = await Promise.race([page.evaluate(download, [whole]), late]);
    const { wires, length, ...rest } = downloaded;
    assert.deepEqual(rest, { announce: [trackerUrl], name: FILE_NAME, sha256 });
    assert(wires.length > 0 && wires.every((type) => type === "webrtc"), `wires ${wires}`);
    const milliseconds = Math.round(performance.now() - begun);
    say(`${length} bytes in ${milliseconds} ms, sha256 ${sha256}`);
    return length;
}

async function exchange(browser) {
    const bytes = randomBytes(FILE_BYTES);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    const seeder = await open(browser, "seeding page");
    const seeded = await seeder.evaluate(seed, [FILE_NAME, bytes.toString("base64"), trackerUrl]);
    assert.deepEqual(seeded.announce, [trackerUrl]);
    const { infoHash } = seeded;
    await counts(infoHash, 1, 0);

    const downloader = await open(browser, "downloading page");
    const length = await fetchAll(downloader, `magnet:?xt=urn:btih:${infoHash}`, sha256);
    assert.equal(length, FILE_BYTES);
    await counts(infoHash, 2, 0);

    await downloader.close();
    await counts(infoHash, 1, 0);
    await seeder.context().close();
    await counts(infoHash, 0, 0);
}

try {
    await serve();
    const browser = await chromium.connectOverCDP(browserUrl, { timeout: PAGE_MS });
    await exchange(browser);
    say("from another program");
    await fetchAll(await open(browser, "third page"), magnet, sha256);
} catch (error) {
    console.error(error.stack);
    process.exit(1);
}
process.exit(0);
