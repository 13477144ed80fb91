"""A libtorrent session that has no way to its peers but a WebSocket tracker and WebRTC.

    peer.py seed URL FOLDER BYTES      makes a file and a torrent of it, and seeds
    peer.py download TORRENT FOLDER    downloads what the file TORRENT describes, and seeds

Torrents are of version 1. One for both versions (BEP 52) is in two swarms, so two sessions make two
connections and each ends one: now and then not the same, and they have none until their next
announces. With one of version 2 alone, libtorrent 2.1.1 names no info_hash to a peer of WebRTC.

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
    """A file of chance and its torrent."""
    path = os.path.join(folder, "file.bin")
    with open(path, "wb") as file:
        file.write(os.urandom(length))
    entries = [libtorrent.create_file_entry("file.bin", length)]
    torrent = libtorrent.create_torrent(entries, PIECE_BYTES, libtorrent.create_torrent.v1_only)
    torrent.add_tracker(url)
    libtorrent.set_piece_hashes(torrent, folder)
    with open(os.path.join(folder, "file.torrent"), "wb") as file:
        file.write(libtorrent.bencode(torrent.generate()))


def say(handle, folder):
    with open(os.path.join(folder, "file.bin"), "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    info_hash = handle.info_hashes().v1.to_bytes().hex()
    print(json.dumps({"info_hash": info_hash, "sha256": sha256}), flush=True)


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
