import { startLocalServer } from '@market/testkit/localServer'
import { expect, it } from 'vitest'
import { call, type Call } from './httpCall.ts'

const asked: Call = { method: 'GET', path: '/a%2Fb/../%FF', headers: {} }

it('asks below the base URL, for the path as it was given, with the headers as they were given', async () => {
  const server = await startLocalServer((request, response) => {
    response
      .writeHead(418, { 'X-Told': 'yes' })
      .end(JSON.stringify([request.method, request.url, request.headers['x-a']]))
  })
  try {
    const answer = await call(`${server.url}/shop/`, { ...asked, headers: { 'X-A': 'b' } }, 5000)
    expect(answer).toMatchObject({
      status: 418,
      json: ['GET', '/shop/a%2Fb/../%FF', 'b'],
      headers: { 'x-told': 'yes' },
    })
  } finally {
    await server.stop()
  }
})

it('tells a connection that never was from one that broke, and from an answer that was too late', async () => {
  const server = await startLocalServer((request, response) => {
    if (request.url === '/cut') request.socket.destroy()
    if (request.url === '/half-late') response.writeHead(200, { 'Content-Length': '10' }).write('half')
    if (request.url === '/half')
      response.writeHead(200, { 'Content-Length': '10' }).write('half', () => request.socket.destroy())
  })
  const outcome = (path: string) => call(server.url, { ...asked, path }, 300).catch((error: unknown) => error)
  try {
    expect(await outcome('/cut')).toMatchObject({ name: 'NoAnswerError', how: 'cut' })
    expect(await outcome('/half')).toMatchObject({ name: 'NoAnswerError', how: 'cut' })
    expect(await outcome('/half-late')).toMatchObject({ how: 'late' })
    expect(await outcome('/late')).toMatchObject({ how: 'late', message: 'no answer within 300 ms' })
  } finally {
    await server.stop()
  }
  expect(await outcome('/gone')).toMatchObject({ how: 'unseen' })
})
