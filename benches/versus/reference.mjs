// Starts webtorrent's own tracker for WebSocket peers alone: node reference.mjs MODULES PORT
//
// Its command line loads its client too, whose WebRTC is a native library that npm builds or gets
// by scripts of packages; those are not run here, and a tracker has no use for it.

import { pathToFileURL } from 'node:url'

const [modules, port] = process.argv.slice(2)
const path = `${modules}/bittorrent-tracker/server.js`
const { default: Server } = await import(pathToFileURL(path))
const server = new Server({ udp: false, http: false, ws: true, stats: false })
server.on('error', error => {
  console.error(error.message)
  process.exit(1)
})
// What a peer does wrong is told to the peer, too.
server.on('warning', warning => console.log(warning.message))
server.listen(Number(port), '127.0.0.1')
