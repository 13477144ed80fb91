// What WebTorrent programs in Node expect from a tracker.
//
//     node node.mjs PACKAGES WS_URL HTTP_URL
//
// PACKAGES is the folder that has `node_modules`. WS_URL is the tracker with `ws:` or `wss:`,
// HTTP_URL the same tracker for HTTP; neither has a path. Ends with 0 if everything holds.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [packages, url, httpUrl] = process.argv.slice(2);

const ANSWER_MS = 5_000;
// How long a tracker may take to see that a connection is gone.
const GONE_MS = 2_000;
// Reannounces of WebTorrent clients are minutes apart, whatever the tracker's exact choice is.
const INTERVAL_SECS = [60, 600];

// Bytes that JSON escapes, and bytes that UTF-8 makes two of.
const DIFFICULT = [
    0x00, 0x01, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x1f, 0x22, 0x2f,
    0x5c, 0x7f, 0x80, 0x9f, 0xa0, 0xad, 0xc3, 0xe9, 0xfe, 0xff,
];

// Twice what browsers' offers of data channels have on a machine with four addresses.
const SDP_BYTES = 3_000;

// All that the library made, in this order.
const peerConnections = [];

// As much of WebRTC as the library needs for offers and answers, each unlike all others. Nothing
// is ever connected.
class PeerConnection {
    constructor() {
        this.name = `connection ${peerConnections.push(this)}`;
        this.iceConnectionState = "new";
        this.iceGatheringState = "complete";
    }

    createDataChannel(label) {
        return { label, readyState: "connecting", close() {} };
    }

    async createOffer() {
        return description("offer", this.name);
    }

    async createAnswer() {
        return description("answer", this.name);
    }

    async setLocalDescription(value) {
        this.localDescription = value;
        // There are no candidates to wait for.
        setTimeout(() => this.onicecandidate?.({ candidate: null }));
    }

    async setRemoteDescription(value) {
        this.remoteDescription = value;
    }

    close() {}
}

class Description {
    constructor({ type, sdp }) {
        Object.assign(this, { type, sdp });
    }
}

// The library takes its WebRTC from here when it is loaded.
Object.assign(globalThis, {
    RTCPeerConnection: PeerConnection,
    RTCSessionDescription: Description,
    RTCIceCandidate: class {},
});

const load = (path) => import(pathToFileURL(join(packages, "node_modules", path)));
const { default: Client } = await load("bittorrent-tracker/client.js");
const { default: WebSocket } = await load("ws/wrapper.mjs");

// A description of a usual size, with line ends and characters that a relay could spoil.
function description(type, name) {
    const head = `v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns="${name}" \\ / \u00e9\u2028\u{1f4a1}\r\n`;
    const line = "a=candidate:1 1 udp 2113937151 127.0.0.1 40000 typ host generation 0\r\n";
    return { type, sdp: head + line.repeat(Math.ceil((SDP_BYTES - head.length) / line.length)) };
}

const binary = (bytes) => Buffer.from(bytes).toString("latin1");
const hex = (text) => Buffer.from(text, "latin1").toString("hex");
const newHash = () => binary(randomBytes(20));
const newPeerId = () => binary(Buffer.concat([Buffer.from("-CI0001-"), randomBytes(12)]));
const say = (text) => console.log(`    ${text}`);

// Fails unless `promise` is done in time; `what` completes "waiting for ...".
async function within(what, promise) {
    const timer = new AbortController();
    const late = sleep(ANSWER_MS, null, { signal: timer.signal }).then(() => {
        throw new Error(`waiting for ${what}: not within ${ANSWER_MS} ms`);
    });
    late.catch(() => {});
    try {
        return await Promise.race([promise, late]);
    } finally {
        timer.abort();
    }
}

async function until(what, condition) {
    const deadline = performance.now() + ANSWER_MS;
    while (!condition()) {
        assert(performance.now() < deadline, `waiting for ${what}: not within ${ANSWER_MS} ms`);
        await sleep(20);
    }
}

// One WebSocket, whose messages wait here until somebody takes them.
class Connection {
    constructor(path) {
        this.waiting = [];
        this.wake = () => {};
        this.socket = new WebSocket(url + path);
        this.closed = new Promise((resolve) => {
            this.socket.once("close", (code) => {
                this.closedWith = code;
                this.wake();
                resolve(code);
            });
        });
        this.socket.on("message", (bytes, isBinary) => {
            assert(!isBinary, "a binary message instead of a text");
            this.waiting.push(JSON.parse(bytes.toString()));
            this.wake();
        });
    }

    static async open(path = "") {
        const connection = new Connection(path);
        const opened = new Promise((resolve, reject) => {
            connection.socket.once("open", resolve);
            connection.socket.on("error", reject);
        });
        await within(`a WebSocket on ${url}${path}`, opened);
        return connection;
    }

    send(message) {
        this.socket.send(JSON.stringify(message));
    }

    // Removes and returns the first message that `matches`; the order of the others stays.
    async take(what, matches) {
        const found = (async () => {
            for (;;) {
                const at = this.waiting.findIndex(matches);
                if (at >= 0) return this.waiting.splice(at, 1)[0];
                assert.equal(this.closedWith, undefined, `closed while waiting for ${what}`);
                await new Promise((resolve) => { this.wake = resolve; });
            }
        })();
        try {
            return await within(what, found);
        } catch (error) {
            error.message += `\n    unread: ${JSON.stringify(this.waiting)}`;
            throw error;
        }
    }

    async scrape(infoHash) {
        this.send({ action: "scrape", info_hash: infoHash });
        return this.take("the answer to a scrape", (answer) => answer.action === "scrape");
    }

    // Nothing is unread, and nothing comes before the answer to a scrape.
    async nothingElse() {
        await this.scrape(newHash());
        assert.deepEqual(this.waiting, [], "messages that nobody should have sent");
    }

    // Closes it, and expects the tracker to do the same instead of breaking off.
    async end() {
        this.socket.close(1000);
        assert.notEqual(await within("the end of a connection", this.closed), 1006);
    }
}

// A peer of one swarm on one connection.
class Peer {
    constructor(connection, infoHash, peerId = newPeerId()) {
        Object.assign(this, { connection, infoHash, peerId });
    }

    request(more) {
        const ids = { action: "announce", info_hash: this.infoHash, peer_id: this.peerId };
        return { ...ids, uploaded: 0, downloaded: 0, ...more };
    }

    // Announces and expects these counts of seeders and leechers.
    async announce(more, complete, incomplete) {
        const offers = more.offers ?? [];
        this.connection.send(this.request({ numwant: offers.length, offers, ...more }));
        await this.counts(complete, incomplete);
    }

    async counts(complete, incomplete) {
        const { complete: seeders, incomplete: leechers } = await this.answered();
        assert.deepEqual({ seeders, leechers }, { seeders: complete, leechers: incomplete });
    }

    // Takes the answer to an announce.
    async answered() {
        const answer = await this.connection.take("the answer to an announce", (message) =>
            message.action === "announce" && message.info_hash === this.infoHash &&
            message.offer === undefined && message.answer === undefined);
        assert.equal(answer["failure reason"], undefined);
        assert.equal(answer.peers, undefined, "peers of other transports");
        interval(answer.interval);
        return answer;
    }

    // Takes an offer that was relayed to this peer, and returns its position among `offers`.
    async offered(source, offers) {
        const relayed = await this.connection.take("an offer", (message) =>
            message.offer !== undefined && message.info_hash === this.infoHash);
        const at = offers.findIndex((offer) => offer.offer_id === relayed.offer_id);
        assert.notEqual(at, -1, `unknown offer_id ${JSON.stringify(relayed.offer_id)}`);
        const ids = { action: "announce", info_hash: this.infoHash, peer_id: source.peerId };
        assert.deepEqual(relayed, { ...ids, ...offers[at] });
        return at;
    }

    // Answers an offer; the one who made it must receive exactly that.
    async answer(source, offerId, name) {
        const answer = { answer: description("answer", name), offer_id: offerId };
        this.connection.send(this.request({ to_peer_id: source.peerId, ...answer }));
        const relayed = await source.connection.take("an answer", (message) =>
            message.answer !== undefined && message.offer_id === offerId);
        const ids = { action: "announce", info_hash: this.infoHash, peer_id: this.peerId };
        assert.deepEqual(relayed, { ...ids, ...answer });
    }
}

function interval(seconds) {
    const [least, most] = INTERVAL_SECS;
    assert(seconds >= least && seconds <= most, `interval ${seconds}`);
}

function newOffers(name, ids) {
    const offer = (id, at) => ({ offer: description("offer", `${name} ${at}`), offer_id: id });
    return ids.map(offer);
}

// Expects the answer to a scrape to have exactly these swarms, each [complete, incomplete].
function scraped(answer, swarms) {
    assert(answer.flags.min_request_interval > 0, "min_request_interval");
    const seen = {};
    for (const [infoHash, { complete, downloaded, incomplete }] of Object.entries(answer.files)) {
        assert(Number.isInteger(downloaded), `downloaded ${downloaded}`);
        seen[infoHash] = [complete, incomplete];
    }
    assert.deepEqual(seen, swarms);
}

// The same for what a connection that has just ended leaves behind.
async function gone(watcher, swarms) {
    const deadline = performance.now() + GONE_MS;
    for (;;) {
        const answer = await watcher.scrape(Object.keys(swarms));
        try {
            return scraped(answer, swarms);
        } catch (error) {
            if (performance.now() > deadline) throw error;
        }
        await sleep(20);
    }
}

async function connectionsCheck() {
    const infoHash = binary(DIFFICULT);
    const idBytes = (by) => binary(DIFFICULT.map((_, at) => DIFFICULT[(at + by) % 20]));
    const seeder = new Peer(await Connection.open(), infoHash, idBytes(5));
    assert.equal(seeder.connection.socket.extensions, "", "an extension that was negotiated");
    scraped(await seeder.connection.scrape(infoHash), { [infoHash]: [0, 0] });
    say("handshake without extensions; a swarm that nobody knows has nobody");

    await seeder.announce({ event: "started", left: 0 }, 1, 0);
    const leecher = new Peer(await Connection.open("/announce?key=1"), infoHash, idBytes(9));
    let offers = newOffers("leecher", [idBytes(1), newHash(), newHash()]);
    await leecher.announce({ event: "started", left: 9, offers }, 1, 1);
    assert.equal(await seeder.offered(leecher, offers), 0, "the first offer for the first peer");
    await seeder.answer(leecher, offers[0].offer_id, "seeder");
    await seeder.connection.nothingElse();
    await leecher.connection.nothingElse();
    say("one peer is given one of three offers; its answer comes back; ids of any bytes");

    const third = new Peer(await Connection.open("/"), infoHash);
    const ids = ["short", "long".repeat(10), ...Array.from({ length: 8 }, newHash)];
    offers = newOffers("third", ids);
    await third.announce({ event: "started", left: 5, offers }, 1, 2);
    const given = [await seeder.offered(third, offers), await leecher.offered(third, offers)];
    assert.deepEqual([...given].sort(), [0, 1], "the first offers, one for each peer");
    await seeder.answer(third, offers[given[0]].offer_id, "seeder");
    await leecher.answer(third, offers[given[1]].offer_id, "leecher");
    const bytes = Buffer.byteLength(JSON.stringify(offers));
    say(`two peers are given two of ten offers (${bytes} bytes), and both answer`);

    offers = newOffers("seeder", [newHash(), newHash()]);
    await seeder.announce({ left: 0, offers }, 1, 2);
    const [one, two] = [await leecher.offered(seeder, offers), await third.offered(seeder, offers)];
    assert.notEqual(one, two, "one offer for two peers");
    await leecher.answer(seeder, offers[one].offer_id, "leecher");
    for (const peer of [seeder, leecher, third]) await peer.connection.nothingElse();
    say("a seeder's offers reach the leechers, and an answer comes back");

    await leecher.announce({ event: "completed", left: 0, downloaded: 9 }, 2, 1);
    say("a leecher that completes is a seeder");
    await otherSpellings(third);
    await scrapes(third.connection, infoHash);
    await asWebTorrent(third.connection);
    await withHttp(third, infoHash);

    await third.announce({ event: "stopped", left: 5 }, 2, 0);
    scraped(await third.connection.scrape(infoHash), { [infoHash]: [2, 0] });
    say("a peer that stops is gone, its connection stays");
    third.connection.send({ ...third.request({ left: 5 }), info_hash: "short" });
    const failure = await third.connection.take("a failure", (got) => "failure reason" in got);
    assert.equal(typeof failure["failure reason"], "string");
    say(`an info_hash of 5 bytes: "${failure["failure reason"]}"`);

    await closings(infoHash, [
        ["is closed", seeder, () => seeder.connection.end()],
        ["breaks off", leecher, () => leecher.connection.socket.terminate()],
    ]);
}

// The same announce as other programs write it, in several frames as well.
async function otherSpellings(peer) {
    const { infoHash, connection } = peer;
    const announce = peer.request({ event: "update", left: 5, numwant: 0, offers: [] });
    const escaped = JSON.stringify(announce).replace(/[\u007f-\uffff]/g, (character) =>
        `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`).replaceAll("/", "\\/");
    const backwards = Object.fromEntries(Object.entries(announce).reverse());
    const more = { unknown: [{ left: [0, null, -1.5e3, true, "}"] }], trackerid: "x" };
    for (const text of [escaped, JSON.stringify({ ...more, ...backwards }, null, "\t")]) {
        connection.socket.send(text);
        await peer.counts(2, 1);
    }
    const text = Buffer.from(JSON.stringify(announce));
    const pong = new Promise((resolve) => { connection.socket.once("pong", resolve); });
    connection.socket.send(text.subarray(0, 7), { fin: false, binary: false });
    connection.socket.ping("between");
    connection.socket.send(text.subarray(7, 30), { fin: false });
    connection.socket.send(text.subarray(30), { fin: true });
    await peer.counts(2, 1);
    assert.equal((await within("a pong", pong)).toString(), "between");
    scraped(await connection.scrape(infoHash), { [infoHash]: [2, 1] });
    say("the same with other escapes, order and space, with unknown keys, and in fragments");
}

async function scrapes(connection, infoHash) {
    const unknown = newHash();
    scraped(await connection.scrape([infoHash]), { [infoHash]: [2, 1] });
    const others = Array.from({ length: 6 }, newHash);
    const peer = new Peer(connection, others[3]);
    await peer.announce({ event: "started", left: 1 }, 0, 1);
    const wanted = Object.fromEntries(others.map((hash) => [hash, [0, 0]]));
    Object.assign(wanted, { [others[3]]: [0, 1], [infoHash]: [2, 1], [unknown]: [0, 0] });
    scraped(await connection.scrape([unknown, ...others, infoHash]), wanted);
    await peer.announce({ event: "stopped", left: 1 }, 0, 0);
    say("scrapes of one swarm and of eight");
}

// What WebTorrent does with a file that it has, and with a magnet link.
async function asWebTorrent(connection) {
    const whole = new Peer(connection, newHash());
    const had = { numwant: 50, left: 0, downloaded: 1_000 };
    connection.send(whole.request({ ...had, event: "completed" }));
    await whole.counts(1, 0);
    await whole.announce({ ...had, event: "started" }, 1, 0);
    await whole.announce({ ...had, event: "stopped" }, 0, 0);

    // Its length is unknown, which trackers take for a seeder or for a leecher.
    const magnet = new Peer(connection, newHash());
    connection.send(magnet.request({ numwant: 0, offers: [], left: null, event: "started" }));
    const { complete, incomplete } = await magnet.answered();
    assert.equal(complete + incomplete, 1);
    connection.send(magnet.request({ numwant: 50, left: 0, event: "completed" }));
    await magnet.counts(1, 0);
    connection.send(magnet.request({ numwant: 50, left: 0, event: "stopped" }));
    await magnet.counts(0, 0);
    say("completed before started, started with an unknown length");
}

// Peers of HTTP are counted in the same swarm, but neither kind is given to the other.
async function withHttp(peer, infoHash) {
    const port = 51_413;
    const ask = async (event) => {
        const hash = Array.from(Buffer.from(infoHash, "latin1"), (byte) =>
            `%${byte.toString(16).padStart(2, "0")}`).join("");
        const query = `info_hash=${hash}&peer_id=-CI0001-over-http-00&port=${port}`;
        const rest = `uploaded=0&downloaded=0&left=7&compact=1&event=${event}`;
        const answer = await within("an answer over HTTP",
            fetch(`${httpUrl}/announce?${query}&${rest}`).then((got) => got.arrayBuffer()));
        return Buffer.from(answer).toString("latin1");
    };
    const answer = await ask("started");
    assert.match(answer, /8:completei2e/);
    assert.match(answer, /10:incompletei2e/);
    const own = binary([127, 0, 0, 1, port >> 8, port & 255]);
    assert(answer.includes("5:peers0:") || answer.includes(`5:peers6:${own}`),
        `peers of WebSocket given to one of HTTP: ${JSON.stringify(answer)}`);
    const offers = newOffers("with HTTP", [newHash(), newHash(), newHash()]);
    await peer.announce({ left: 5, offers }, 2, 2);
    await ask("stopped");
    scraped(await peer.connection.scrape(infoHash), { [infoHash]: [2, 1] });
    say("peers of HTTP are counted with the others and not mixed with them");
}

// With a connection all its peers go, from every swarm.
async function closings(infoHash, cases) {
    const watcher = await Connection.open();
    let left = cases.length;
    for (const [how, peer, end] of cases) {
        const swarms = Array.from({ length: 8 }, newHash);
        const others = swarms.map((hash) => new Peer(peer.connection, hash, peer.peerId));
        for (const other of others) {
            other.connection.send(other.request({ event: "started", left: 3, numwant: 0 }));
        }
        for (const other of others) await other.counts(0, 1);
        await end();
        left -= 1;
        const wanted = { [infoHash]: [left, 0] };
        for (const hash of swarms) wanted[hash] = [0, 0];
        await gone(watcher, wanted);
        say(`a connection that ${how} leaves none of its nine swarms with a peer`);
    }
    await watcher.end();
}

// The library's client, the number of bytes it still needs, and the peers it has heard of.
function newClient(path, infoHash, peerId, left) {
    const options = { infoHash: hex(infoHash), peerId: hex(peerId), port: 6881 };
    const client = new Client({ ...options, announce: [url + path] });
    client.left = left;
    client.remotes = [];
    for (const event of ["warning", "error"]) {
        client.on(event, (error) => {
            console.error(`the library's client says: ${error.message}`);
            process.exit(1);
        });
    }
    client.on("peer", (remote) => client.remotes.push(remote));
    return client;
}

const next = (client, event) =>
    within(`\`${event}\``, new Promise((resolve) => { client.once(event, resolve); }));

async function update(client, action, complete, incomplete) {
    const answered = next(client, "update");
    client[action]({ left: client.left });
    const answer = await answered;
    const { complete: seeders, incomplete: leechers } = answer;
    assert.deepEqual({ seeders, leechers }, { seeders: complete, leechers: incomplete });
    assert.equal(answer.infoHash, client.infoHash);
    interval(answer.interval);
}

// Waits until the two know each other by an offer and an answer that reached them unchanged.
async function meet(offering, answering) {
    const knows = (client, other) => client.remotes.some(({ id }) => id === other.peerId);
    await until("an offer", () => knows(answering, offering));
    await until("its answer", () => knows(offering, answering));
    const text = (value) => JSON.stringify([value?.type, value?.sdp]);
    const pairs = peerConnections.flatMap((one) => peerConnections.filter((two) =>
        one.localDescription?.type === "offer" && two.localDescription?.type === "answer" &&
        text(two.remoteDescription) === text(one.localDescription) &&
        text(one.remoteDescription) === text(two.localDescription)));
    assert.equal(pairs.length, 1, "offers that were answered, both unchanged");
}

async function libraryCheck() {
    // The library keeps one connection for each URL: another path makes another one.
    const [infoHash, other] = [newHash(), newHash()];
    const seeder = newClient("", infoHash, newPeerId(), 0);
    await update(seeder, "start", 1, 0);
    const leecher = newClient("/announce", infoHash, newPeerId(), 1_000);
    await update(leecher, "start", 1, 1);
    await meet(leecher, seeder);
    say("start; a leecher's offer on one connection, a seeder's answer on another");

    leecher.left = 0;
    await update(leecher, "complete", 2, 0);
    const third = newClient("", infoHash, newPeerId(), 1_000);
    await update(third, "start", 2, 1);
    await until("answers of both seeders", () => third.remotes.length === 2);
    const elsewhere = newClient("", other, newPeerId(), 5);
    await update(elsewhere, "start", 0, 1);
    say("complete; two peers and two swarms on one connection; answers of two peers");

    await libraryScrapes(third, infoHash, other);
    await update(third, "stop", 2, 0);
    await update(third, "start", 2, 1);
    await update(third, "update", 2, 1);
    await update(third, "stop", 2, 0);
    await update(elsewhere, "stop", 0, 0);
    say("stop, start again, update");

    const watcher = await Connection.open();
    const end = (client) => new Promise((resolve) => { client.destroy(resolve); });
    await within("the end of a client", end(leecher));
    await gone(watcher, { [infoHash]: [1, 0] });
    await within("the end of clients", Promise.all([third, elsewhere, seeder].map(end)));
    await gone(watcher, { [infoHash]: [0, 0], [other]: [0, 0] });
    await watcher.end();
    say("clients that end without a word are gone at once");
}

async function libraryScrapes(client, infoHash, other) {
    const pick = ({ complete, incomplete }) => [complete, incomplete];
    const one = next(client, "scrape");
    client.scrape();
    assert.deepEqual(pick(await one), [2, 1]);

    const [unknown, results] = [newHash(), {}];
    const keep = (result) => { results[result.infoHash] = pick(result); };
    client.on("scrape", keep);
    client.scrape({ infoHash: [infoHash, other, unknown].map(hex) });
    await until("scrapes of three", () => Object.keys(results).length === 3);
    client.off("scrape", keep);
    const wanted = { [hex(infoHash)]: [2, 1], [hex(other)]: [0, 1], [hex(unknown)]: [0, 0] };
    assert.deepEqual(results, wanted);

    const alone = await within("a scrape without a client", new Promise((resolve, reject) => {
        Client.scrape({ announce: `${url}/scrape`, infoHash: hex(other) }, (error, result) =>
            error ? reject(error) : resolve(result));
    }));
    assert.deepEqual(pick(alone), [0, 1]);
    say("scrapes of one swarm and of three");
}

try {
    await connectionsCheck();
    await libraryCheck();
} catch (error) {
    console.error(error.stack);
    process.exit(1);
}
process.exit(0);
