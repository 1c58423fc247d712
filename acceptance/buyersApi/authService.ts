import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type AuthCall = { path: string; contentType: string | undefined; forwardedFor: string | undefined; body: string }

/** An external sign-in service (market-api.md 1.5, 3.3): publishes one RSA key, and answers what it is told to. */
export async function startAuthService() {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const kid = 'key-1'
  const jwks = { keys: [{ ...publicKey.export({ format: 'jwk' }), kid, alg: 'RS256', use: 'sig' }] }
  const calls: AuthCall[] = []
  const hanging: ServerResponse[] = []
  const answers = new Map<string, { status: number; headers?: Record<string, string>; body: string } | 'hang'>()

  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const path = request.url!
    const { 'content-type': contentType, 'x-forwarded-for': forwardedFor } = request.headers
    calls.push({ path, contentType, forwardedFor: forwardedFor?.toString(), body: Buffer.concat(chunks).toString() })
    if (path === '/.well-known/jwks.json') {
      return response.setHeader('Content-Type', 'application/json').end(JSON.stringify(jwks))
    }
    const answer = answers.get(path) ?? { status: 404, body: '{}' }
    if (answer === 'hang') return hanging.push(response)
    response
      .writeHead(answer.status, { 'Content-Type': 'application/json', Server: 'auth-service', ...answer.headers })
      .end(answer.body)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    kid,
    jwks,
    privateKey: privateKey as KeyObject,
    publicKeyText: publicKey.export({ format: 'pem', type: 'spki' }).toString(),
    calls,
    answer: (
      path: '/challenge' | '/verify',
      answer: { status: number; headers?: Record<string, string>; body: string } | 'hang',
    ) => void answers.set(path, answer),
    async stop() {
      if (!server.listening) return
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}
