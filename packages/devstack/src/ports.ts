import { createServer } from 'node:net'
import { causeOf, DevstackError } from './errors.ts'

/** A TCP port of 127.0.0.1 that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  return listenOnce(0, '127.0.0.1')
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
