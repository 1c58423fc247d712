import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

export type TcpProxy = Awaited<ReturnType<typeof startTcpProxy>>

type Pair = { client: Socket; server: Socket; sides: [Socket, Socket] }

/** Passes bytes on to a port of this machine, until it is told to misbehave. */
export async function startTcpProxy(options: { port: number; target: number }) {
  const pairs = new Set<Pair>()
  let refusing = false

  const listener = createServer((client) => {
    if (refusing) return void client.resetAndDestroy()
    const server = connect(options.target, '127.0.0.1')
    const pair: Pair = { client, server, sides: [client, server] }
    pairs.add(pair)
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.setNoDelay(true)
      from.on('error', () => {})
      from.pipe(to)
      // What ended on one side ends on the other, unless it is only half cut.
      from.on('close', () => {
        pairs.delete(pair)
        if (!from.readableEnded || from.errored) to.destroy()
      })
    }
  })
  await once(listener.listen(options.port, '127.0.0.1'), 'listening')

  const reset = (pair: Pair) => {
    for (const side of pair.sides) side.resetAndDestroy()
  }

  return {
    connections: () => [...pairs],
    /** Both ends see a reset. */
    reset,
    /** The client sees a reset; the server believes in its connection for so long, with all that it holds for it. */
    cutHalf(pair: Pair, forMs: number) {
      pair.client.unpipe(pair.server)
      pair.server.unpipe(pair.client)
      pair.server.resume()
      pair.client.removeAllListeners('close')
      pair.client.resetAndDestroy()
      setTimeout(() => pair.server.destroy(), forMs).unref()
    },
    /** Nothing comes through for so long; then all of it does. */
    delay(pair: Pair, forMs: number) {
      for (const side of pair.sides) side.pause()
      setTimeout(() => pair.sides.forEach((side) => side.resume()), forMs).unref()
    },
    /** Nothing comes through, and after so long the connection is forgotten. */
    blackhole(pair: Pair, forMs: number) {
      for (const side of pair.sides) side.pause()
      setTimeout(() => reset(pair), forMs).unref()
    },
    /** New connections are reset for so long. */
    refuse(forMs: number) {
      refusing = true
      setTimeout(() => (refusing = false), forMs).unref()
    },
    stop() {
      listener.close()
      for (const pair of pairs) reset(pair)
    },
  }
}
