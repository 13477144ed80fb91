"""A libtorrent session that has no way to its peers but a WebSocket tracker and WebRTC.

    peer.py seed URL FOLDER BYTES      makes a file and a torrent of it, and seeds
    peer.py download TORRENT FOLDER    downloads what the file TORRENT describes, and seeds

Prints one line of JSON when it seeds. Ends with SIGTERM, and says so to the tracker before.
"""

import sys

sys.dont_write_bytecode = True

import hashlib
import json
import os
import signal
import time

import libtorrent

PIECE_BYTES = 64 * 1024
# Slow enough that a scrape finds the leecher.
DOWNLOAD_BYTES_PER_SECOND = 256 * 1024

# Nobody is looked for by other means, and nobody reached: not a datagram goes to a STUN server.
SETTINGS = {
    "alert_mask": libtorrent.alert.category_t.error_notification
    | libtorrent.alert.category_t.tracker_notification
    | libtorrent.alert.category_t.status_notification,
    "download_rate_limit": DOWNLOAD_BYTES_PER_SECOND,
    "enable_dht": False,
    "enable_incoming_tcp": False,
    "enable_incoming_utp": False,
    "enable_lsd": False,
    "enable_natpmp": False,
    "enable_outgoing_tcp": False,
    "enable_outgoing_utp": False,
    "enable_upnp": False,
    "listen_interfaces": "127.0.0.1:0",
    "validate_https_trackers": True,
    "webtorrent_stun_server": "",
}


def make(url, folder, length):
    """A file of chance and its torrent, one for both versions of BitTorrent (BEP 52)."""
    path = os.path.join(folder, "file.bin")
    with open(path, "wb") as file:
        file.write(os.urandom(length))
    entries = [libtorrent.create_file_entry("file.bin", length)]
    torrent = libtorrent.create_torrent(entries, PIECE_BYTES)
    torrent.add_tracker(url)
    libtorrent.set_piece_hashes(torrent, folder)
    with open(os.path.join(folder, "file.torrent"), "wb") as file:
        file.write(libtorrent.bencode(torrent.generate()))


def say(handle, folder):
    with open(os.path.join(folder, "file.bin"), "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    hashes = handle.info_hashes()
    # Swarms of version 2 are named by the beginning of a longer hash.
    names = [hashes.v1.to_bytes().hex(), hashes.v2.to_bytes()[:20].hex()]
    magnet = f"magnet:?xt=urn:btih:{names[0]}"
    print(json.dumps({"hashes": names, "magnet": magnet, "sha256": sha256}), flush=True)


def main():
    role, what, folder, *rest = sys.argv[1:]
    if role == "seed":
        make(what, folder, int(rest[0]))
        what = os.path.join(folder, "file.torrent")
    wanted = libtorrent.load_torrent_file(what)
    wanted.save_path = folder
    if role == "seed":
        wanted.flags |= libtorrent.torrent_flags.seed_mode

    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    session = libtorrent.session(SETTINGS)
    handle = session.add_torrent(wanted)
    is_told = False
    while not ended:
        time.sleep(0.02)
        for alert in session.pop_alerts():
            print(f"{alert.what()}: {alert.message()}", file=sys.stderr, flush=True)
        if not is_told and handle.status().is_seeding:
            is_told = True
            say(handle, folder)
    session.pause()
    session.remove_torrent(handle)


main()
