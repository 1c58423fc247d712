import { createServer } from 'node:net'
import { causeOf, DevstackError } from './errors.ts'

/** One that the kernel picks, for whoever listens on it at once. */
export function momentaryPort(): Promise<number> {
  return listenOnce(0, '127.0.0.1')
}

const FIRST = 20_000
const SLOTS = 40
const SLOT_SIZE = 300
let given = 0

/**
 * A TCP port that nobody listens on, and that this process gives out to no other caller soon.
 *
 * Not one the kernel picks: those are also the ports of outgoing connections, so one that is free now may be taken before
 * its user comes to listen on it. Below them every process of a test run counts through a range of its own.
 */
export async function freePort(): Promise<number> {
  const slot = (Number(process.env.VITEST_POOL_ID) || process.pid) % SLOTS
  for (let tries = 0; tries < SLOT_SIZE; tries += 1) {
    const port = FIRST + slot * SLOT_SIZE + (given % SLOT_SIZE)
    given += 1
    try {
      await assertPortFree(port, 'test')
      return port
    } catch {
      // Somebody else's.
    }
  }
  throw new DevstackError(`no port is free from ${FIRST + slot * SLOT_SIZE} on; stop what listens there`)
}

/** Throws `DevstackError` unless the port can be listened on; `what` would use it and `variable` would change it. */
export async function assertPortFree(port: number, what: string, variable?: string): Promise<void> {
  const otherwise = variable ? `or set ${variable}` : 'or choose another port'
  // Both: macOS allows a listener on 127.0.0.1 beside one on every address, and then answers from either.
  for (const host of ['127.0.0.1', '::']) {
    await listenOnce(port, host).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE')
        throw new DevstackError(`port ${port} (${what}) is in use; stop what listens there ${otherwise}`)
      if (host === '127.0.0.1')
        throw new DevstackError(`port ${port} (${what}) cannot be opened (${causeOf(error)}); allow it ${otherwise}`)
    })
  }
}

function listenOnce(port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen({ port, host, exclusive: true }, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : port))
    })
  })
}
