import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type CustomDataLink, type LinkDraft, linkDigest, signLink } from '@market/contracts/link'
import { safeMessageHash } from '@market/contracts/safeMessage'
import { until } from '@market/testkit/until'
import { type Abi, encodeFunctionData, type Hex, stringToHex } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  type AccountChain,
  type Answer,
  type Asked,
  signed,
  startAccountChain,
  startNodeProxy,
} from '../../test/accountChain.ts'
import { plainWallet, safeDouble } from '@market/testkit/contractAccounts.gen'
import { connectLinkSignatures, keep, type LinkSignatures, type SignatureVerdict } from './linkSignatures.ts'

const vectors = new URL('../../../packages/contracts/vectors/', import.meta.url)
const read = (name: string) => JSON.parse(readFileSync(new URL(name, vectors), 'utf8'))
const safe = read('safe.json') as {
  safe: Hex
  owner: Hex
  link: Omit<CustomDataLink, 'signature'>
  canonical: string
  keccak: string
  paths: Array<{ id: string; signature: string; ethCall: { data: string } }>
  wrongChain: { signature: string }
}
const { keys } = read('keys.json') as { keys: Array<{ label: string; privateKey: Hex; address: Hex }> }
const { links } = read('links.json') as {
  links: Array<{ id: string; link: CustomDataLink; accept: boolean }>
}
const negative = (read('negative.json') as { links: Array<{ id: string; code: string; link: CustomDataLink }> }).links
const [sellerA, sellerB] = keys as [(typeof keys)[0], (typeof keys)[0]]
const owner = keys.find(({ address }) => address === safe.owner)!
const draft: LinkDraft = {
  name: 'product/clay-mug',
  cid: 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy',
  chainId: 100,
  signedAt: 1_780_000_010,
  nonce: '0xc4961690fdeb0dc34ed20c18174108d8',
}
/** The vector's link, as a Safe's owners would publish it with this signature. */
const safeLink = (signature: string): CustomDataLink => ({ ...safe.link, signature }) as CustomDataLink

let chain: AccountChain
beforeAll(async () => {
  chain = await startAccountChain()
  await node.listen()
})
afterAll(async () => {
  node.close()
  await chain.stop()
})

const askAnvil = (asked: object) => chain.ask(asked)
const anvilDo = <T>(method: string, ...params: unknown[]) => chain.rpc<T>(method, ...params)

/** Anvil itself, watched. */
const node = startNodeProxy(askAnvil)

let clock = 0
let signatures: LinkSignatures
beforeEach(() => {
  clock = 1_780_000_000_000
  node.asked = []
  node.answerTo = askAnvil
  signatures = connect()
})
const connect = (rpcUrl = node.url, timeoutMs = 20_000) =>
  connectLinkSignatures({ rpcUrl, chainId: 100, timeoutMs, now: () => clock })
const check = (link: CustomDataLink, by = signatures) => by.check(link, linkDigest(link))

let addresses = 0
const newAddress = (): Hex =>
  `0x${(0xacc0000000000000000000000000000000000000n + BigInt((addresses += 1))).toString(16)}`

const send = (transaction: { to?: Hex; data: Hex }) => chain.send(transaction)
const place = (contract: { abi: Abi; bytecode: Hex }, at: Hex, ...setup: unknown[]) =>
  chain.place(contract, at, ...setup)
const placeSafe = (at: Hex, owners: Hex[]) => chain.placeSafe(at, owners)

const calls = () => node.calls()
const S1 = '0x20c13b0b'
const S2_S3 = '0x1626ba7e'
const refusedBy = (account: 'none' | 'contract', code = 'SIGNER'): Partial<SignatureVerdict> => ({
  kind: 'invalid',
  code: code as never,
  account,
})

describe('accounts without code', () => {
  it.each(links.filter(({ accept }) => accept))('accept $id for ever, after one question', async ({ link }) => {
    expect(await check(link)).toEqual({ kind: 'valid', signer: link.signerAddress.toLowerCase(), block: null })
    expect(node.asked).toMatchObject([{ method: 'eth_getCode', params: [link.signerAddress.toLowerCase(), 'latest'] }])
  })

  const numbers: Record<string, RegExp> = {
    'catalog:8': /^(tampered|chain-rewritten|stranger)/,
    'catalog:9': /^high-s/,
    'catalog:10': /^(eip191|sha256|nulls)/,
    'catalog:11': /^sig-/,
  }
  for (const [number, ids] of Object.entries(numbers)) {
    for (const { id, code, link } of negative.filter((vector) => ids.test(vector.id))) {
      it(`${number} refuse ${id} with ${code}`, async () => {
        expect(await check(link)).toMatchObject(refusedBy('none', code))
      })
    }
  }

  it('are asked about once, however many links of theirs come at once, in whatever case', async () => {
    const many = Array.from({ length: 50 }, (_, index) => signLink({ ...draft, signedAt: index }, sellerA.privateKey))
    many.push({ ...many[0]!, signerAddress: sellerA.address.toUpperCase().replace('0X', '0x') })
    const verdicts = await Promise.all(many.map((link) => check(link)))
    expect(verdicts.map(({ kind }) => kind)).toEqual([...Array(50).fill('valid'), 'invalid'])
    expect(node.methods()).toEqual(['eth_getCode'])
  })

  it('are not asked about when the signature is nobody’s', async () => {
    const longest = `0x${'ab'.repeat(2_047)}`
    for (const signature of [`${longest}ab`, '0xabc', 'ab', '']) {
      expect(await check(safeLink(signature))).toMatchObject(refusedBy('none', 'SIG_SHAPE'))
    }
    expect(node.asked).toEqual([])
    expect(await check(safeLink(longest))).toMatchObject(refusedBy('none', 'SIG_SHAPE'))
    expect(node.methods()).toEqual(['eth_getCode'])
  })
})

describe('a Safe', () => {
  beforeAll(() => placeSafe(safe.safe, [owner.address]))

  it.each(safe.paths.map((path, index) => ({ ...path, index })))(
    'catalog:17 accepts $id by that very call, asked as itself',
    async ({ signature, ethCall, index }) => {
      const head = BigInt(await anvilDo<string>('eth_blockNumber'))
      expect(await check(safeLink(signature))).toEqual({ kind: 'valid', signer: safe.safe, block: head })
      expect(calls().length).toBe(index + 1)
      expect(calls().map(({ data }) => data!.slice(0, 10))).toEqual([S1, S2_S3, S2_S3].slice(0, index + 1))
      expect(calls()[index]).toEqual({ from: safe.safe, to: safe.safe, data: ethCall.data })
      for (const { params } of node.asked.filter(({ method }) => method === 'eth_call'))
        expect(params[1]).toBe('latest')
    },
  )

  it('market-api:W-56 is asked without a gas limit', async () => {
    await check(safeLink(safe.paths[2]!.signature))
    expect(calls().map((call) => Object.keys(call).toSorted())).toEqual(
      Array.from({ length: 3 }, () => ['data', 'from', 'to']),
    )
  })

  it('catalog:17 gets the signatures of two owners unmodified', async () => {
    const at = newAddress()
    await placeSafe(at, [owner.address, sellerB.address])
    const link = { ...safeLink('0x'), signerAddress: at }
    const hash = safeMessageHash(100, at, Buffer.from(safe.canonical.replace(safe.safe, at)))
    const both = await signed(hash, owner, sellerB)
    expect(both.length).toBe(2 + 4 * 65)
    expect(await check({ ...link, signature: both })).toMatchObject({ kind: 'valid', signer: at })
    expect(calls()[0]!.data).toContain(both.slice(2))
    for (const one of [await signed(hash, owner), await signed(hash, owner, sellerA), '0x', `${both}00`]) {
      expect(await check({ ...link, signature: one })).toMatchObject(refusedBy('contract'))
    }
  })

  it('catalog:17 may have approved the message on chain instead', async () => {
    const at = newAddress()
    await placeSafe(at, [owner.address])
    const link = { ...safeLink('0x'), signerAddress: at }
    expect(await check(link)).toMatchObject(refusedBy('contract'))
    const message = stringToHex(safe.canonical.replace(safe.safe, at))
    await send({ to: at, data: encodeFunctionData({ abi: safeDouble.abi, functionName: 'approve', args: [message] }) })
    expect(await check(link)).toMatchObject({ kind: 'valid', signer: at })
    // Offset, offset, the message's and the signature's length: the last one is zero, and nothing follows.
    expect(calls().at(-1)!.data!.slice(0, 10)).toBe(S1)
    expect(calls().at(-1)!.data!.slice(-64)).toBe('0'.repeat(64))
  })

  it('catalog:18 does not accept what its owner signed for another chain', async () => {
    expect(await check(safeLink(safe.wrongChain.signature))).toMatchObject(refusedBy('contract'))
    expect(calls().length).toBe(3)
  })

  it('does not accept a link that was changed after signing', async () => {
    const tampered = { ...safeLink(safe.paths[0]!.signature), name: 'product/other' }
    expect(await check(tampered)).toMatchObject(refusedBy('contract'))
  })

  it('signs links in mixed case, too', async () => {
    const at = newAddress()
    await placeSafe(at, [owner.address])
    const mixed = { ...safeLink('0x'), signerAddress: at.toUpperCase().replace('0X', '0x') }
    const hash = safeMessageHash(100, at, Buffer.from(safe.canonical.replace(safe.safe, mixed.signerAddress)))
    expect(await check({ ...mixed, signature: await signed(hash, owner) })).toMatchObject({ kind: 'valid', signer: at })
  })
})

describe('other accounts with code', () => {
  it.each([
    ['reverts without a word', '0x60006000fd'],
    ['runs into an invalid instruction', '0xfe'],
    ['jumps nowhere', '0x600056'],
    ['takes from an empty stack', '0x50'],
    ['burns all gas', '0x5b600056'],
    ['answers nothing', '0x00'],
    // Four bytes, one of them wrong: PUSH4 …, PUSH1 224, SHL, PUSH1 0, MSTORE, PUSH1 32, PUSH1 0, RETURN.
    ['answers something else', '0x631626ba7f60e01b60005260206000f3'],
    ['answers yes at the end of the word only', '0x631626ba7e60005260206000f3'],
    ['answers yes with three bytes', '0x631626ba7e60e01b60005260036000f3'],
  ])('catalog:19 one that %s refuses', async (_what, code) => {
    const at = newAddress()
    await anvilDo('anvil_setCode', at, code)
    const link = { ...safeLink(safe.paths[0]!.signature), signerAddress: at }
    expect(await check(link)).toMatchObject(refusedBy('contract'))
    expect(calls().map(({ data }) => data!.slice(0, 10))).toEqual([S1, S2_S3, S2_S3])
  })

  it('catalog:20 a wallet that is no Safe accepts by S2', async () => {
    const at = newAddress()
    await place(plainWallet, at, owner.address)
    const link = { ...safeLink('0x'), signerAddress: at }
    const signature = await signed(linkDigest(link), owner)
    expect(await check({ ...link, signature })).toMatchObject({ kind: 'valid', signer: at, block: expect.any(BigInt) })
    expect(calls().map(({ data }) => data!.slice(0, 10))).toEqual([S1, S2_S3])
    expect(await check({ ...link, signature: await signed(linkDigest(link), sellerB) })).toMatchObject(
      refusedBy('contract'),
    )
  })

  it('catalog:21 a key’s account that borrows code accepts its own key, for ever', async () => {
    const reverting = newAddress()
    await anvilDo('anvil_setCode', reverting, '0x60006000fd')
    await anvilDo('anvil_setCode', sellerA.address, `0xef0100${reverting.slice(2)}`)
    const link = signLink(draft, sellerA.privateKey)
    expect(await check(link)).toEqual({ kind: 'valid', signer: sellerA.address, block: null })
    expect(calls().map(({ data }) => data!.slice(0, 10))).toEqual([S1, S2_S3, S2_S3])
    const stranger = signLink(draft, sellerB.privateKey).signature
    expect(await check({ ...link, signature: stranger })).toMatchObject(refusedBy('contract'))
    await anvilDo('anvil_setCode', sellerA.address, '0x')
  })

  it.each(negative.filter(({ id }) => /^(high-s|sig-v0|sig-64|sig-zero)$/.test(id)))(
    'catalog:21 it refuses $id of its key all the same',
    async ({ link }) => {
      await anvilDo('anvil_setCode', link.signerAddress, `0xef0100${newAddress().slice(2)}`)
      expect(await check(link)).toMatchObject(refusedBy('contract'))
      expect(calls().length).toBe(3)
      await anvilDo('anvil_setCode', link.signerAddress, '0x')
    },
  )

  it('catalog:21 and what the borrowed code accepts', async () => {
    const at = newAddress()
    const wallet = newAddress()
    await place(plainWallet, wallet, sellerA.address)
    await anvilDo('anvil_setCode', at, `0xef0100${wallet.slice(2)}`)
    await send({
      to: at,
      data: encodeFunctionData({ abi: plainWallet.abi, functionName: 'setup', args: [owner.address] }),
    })
    const link = { ...safeLink('0x'), signerAddress: at }
    const signature = await signed(linkDigest(link), owner)
    expect(await check({ ...link, signature })).toMatchObject({ kind: 'valid', signer: at, block: expect.any(BigInt) })
  })

  it('catalog:21 another contract does not accept the key of its address', async () => {
    await anvilDo('anvil_setCode', sellerB.address, '0x60006000fd')
    const link = signLink(draft, sellerB.privateKey)
    expect(await check(link)).toMatchObject(refusedBy('contract'))
    await anvilDo('anvil_setCode', sellerB.address, '0x')
  })
})

describe('what is remembered of an account', () => {
  it('catalog:22 is that it has no code, for a minute: then a Safe deployed since is asked', async () => {
    const at = newAddress()
    const text = safe.canonical.replace(safe.safe, at)
    const signature = await signed(safeMessageHash(100, at, Buffer.from(text)), owner)
    const link = { ...safeLink(signature), signerAddress: at }
    expect(await check(link)).toMatchObject(refusedBy('none'))
    await placeSafe(at, [owner.address])
    clock += 59_999
    expect(await check(link)).toMatchObject(refusedBy('none'))
    clock += 1
    expect(await check(link)).toMatchObject({ kind: 'valid', signer: at, block: expect.any(BigInt) })
    expect(node.methods().filter((method) => method === 'eth_getCode').length).toBe(2)
  })

  it('is that it has code, for an hour; its answers are not', async () => {
    const at = newAddress()
    await place(plainWallet, at, sellerB.address)
    const link = { ...safeLink('0x'), signerAddress: at }
    const signature = await signed(linkDigest(link), owner)
    expect(await check({ ...link, signature })).toMatchObject(refusedBy('contract'))
    await send({
      to: at,
      data: encodeFunctionData({ abi: plainWallet.abi, functionName: 'setup', args: [owner.address] }),
    })
    clock += 3_599_999
    expect(await check({ ...link, signature })).toMatchObject({ kind: 'valid' })
    expect(node.methods().filter((method) => method === 'eth_getCode').length).toBe(1)
    clock += 1
    await check({ ...link, signature })
    expect(node.methods().filter((method) => method === 'eth_getCode').length).toBe(2)
  })

  it('is of the block, for a second', async () => {
    const at = newAddress()
    await place(plainWallet, at, owner.address)
    const link = { ...safeLink('0x'), signerAddress: at }
    const mine = { ...link, signature: await signed(linkDigest(link), owner) }
    const head = BigInt(await anvilDo<string>('eth_blockNumber'))
    expect(await check(mine)).toMatchObject({ block: head })
    await anvilDo('anvil_mine', '0x1')
    expect(await check(mine)).toMatchObject({ block: head })
    clock += 1_000
    expect(await check(mine)).toMatchObject({ block: head + 1n })
  })

  it('is forgotten when too many others came since, the oldest first', async () => {
    const loaded: string[] = []
    const find = keep(
      3,
      () => clock,
      async (key: string) => {
        loaded.push(key)
        return { value: key.toUpperCase(), keepMs: 1_000 }
      },
    )
    const findAll = async (...all: string[]) => {
      loaded.length = 0
      expect(await Promise.all(all.map(find))).toEqual(all.map((key) => key.toUpperCase()))
      return loaded.join('')
    }
    expect(await findAll('a', 'b', 'c', 'a', 'b', 'c')).toBe('abc')
    expect(await findAll('d', 'd', 'b', 'c')).toBe('d')
    expect(await findAll('a', 'c', 'd')).toBe('a')
    // What was looked up again is new again.
    clock += 1_000
    expect(await findAll('d', 'a', 'c')).toBe('dac')
    expect(await findAll('e', 'a', 'c')).toBe('e')
    expect(await findAll('d')).toBe('d')
  })
})

describe('a node that does not answer', () => {
  const link = safeLink(safe.paths[0]!.signature)
  /** Says what a test wants it to. One for each test: what a client gave up may still be on its way. */
  let mockNode: ReturnType<typeof startNodeProxy>
  beforeEach(async () => {
    mockNode = startNodeProxy(async () => 'nothing')
    await mockNode.listen()
    return () => mockNode.close()
  })
  const ok = (asked: Asked, result: unknown): Answer => ({
    body: JSON.stringify({ jsonrpc: '2.0', id: asked.id, result }),
  })
  const failed = (asked: Asked, error: object): Answer => ({
    body: JSON.stringify({ jsonrpc: '2.0', id: asked.id, error }),
  })
  /** A node with a contract at every address, but for one kind of call. */
  const answering = (method: string, answer: (asked: Asked) => Answer, timeoutMs = 20_000) => {
    const usual: Record<string, unknown> = { eth_getCode: '0x60', eth_blockNumber: '0x10', eth_call: '0x' }
    mockNode.answerTo = async (asked) => (asked.method === method ? answer(asked) : ok(asked, usual[asked.method]))
    return connect(mockNode.url, timeoutMs)
  }
  const answers: Array<[string, (asked: Asked) => Answer]> = [
    ['nothing in time', () => 'nothing'],
    ['with a 502', () => ({ status: 502, body: 'Bad gateway' })],
    ['with a 503 around an answer', (asked) => ({ ...(ok(asked, S1) as object), status: 503 }) as Answer],
    ['with a 429', (asked) => ({ ...(failed(asked, { code: 3 }) as object), status: 429 }) as Answer],
    ['with a page', () => ({ body: '<html>revert</html>' })],
    ['with half an answer', () => ({ body: '{"jsonrpc":"2.0",' })],
    ['with null', () => ({ body: 'null' })],
    ['with a list', () => ({ body: '[]' })],
    ['to another call', ({ id }) => ({ body: JSON.stringify({ jsonrpc: '2.0', id: id + 1, result: S1 }) })],
    ['without a result', (asked) => ok(asked, undefined)],
    ['with a number', (asked) => ok(asked, 1)],
    ['with text that is no hex', (asked) => ok(asked, '0xerror')],
    ['with an error of its own', (asked) => failed(asked, { code: -32000, message: 'header not found' })],
    ['that it is busy', (asked) => failed(asked, { code: -32005, message: 'limit exceeded' })],
    ['that it took too long', (asked) => failed(asked, { code: -32000, message: 'execution aborted (timeout = 5s)' })],
    ['with an error without text', (asked) => failed(asked, {})],
    ['with an error that is text', (asked) => failed(asked, 'no' as never)],
    ['with more than any node would', (asked) => ok(asked, `0x${S1.slice(2)}${'00'.repeat(200_000)}`)],
  ]
  const methods = ['eth_getCode', 'eth_blockNumber', 'eth_call']
  const cases = methods.flatMap((method) => answers.map(([what, answer]) => ({ method, what, answer })))

  it.each(cases)(
    'catalog:19 $method $what: the link is neither accepted nor refused',
    async ({ method, what, answer }) => {
      // The one who is silent is waited for, so briefly; the others may take what a busy machine takes.
      const by = answering(method, answer, what === 'nothing in time' ? 1_000 : 20_000)
      const verdict = await check(link, by)
      expect(verdict).toEqual({ kind: 'unknown', reason: expect.stringMatching(/^[\w: -]+$/) })
      // Nothing of it is remembered: as soon as the node answers, so do we.
      answering(method, (asked) => ok(asked, method === 'eth_call' ? S1 : '0x12'))
      expect(await check(link, by)).toMatchObject(method === 'eth_call' ? { kind: 'valid' } : refusedBy('contract'))
    },
  )

  it.each([
    ['geth', { code: 3, message: 'execution reverted', data: '0x' }],
    ['a node of few words', { code: 3, message: 'failed' }],
    ['geth without data', { code: -32000, message: 'execution reverted' }],
    ['geth at an invalid instruction', { code: -32000, message: 'invalid opcode: INVALID' }],
    ['geth out of gas', { code: -32000, message: 'out of gas' }],
    ['geth at a bad jump', { code: -32000, message: 'invalid jump destination' }],
    ['geth with an empty stack', { code: -32000, message: 'stack underflow (0 <=> 1)' }],
    ['Nethermind', { code: -32015, message: 'VM execution error.', data: 'Reverted 0x' }],
    ['Nethermind at an invalid instruction', { code: -32015, message: 'VM execution error.', data: 'BadInstruction' }],
    ['Besu', { code: -32000, message: 'Execution reverted' }],
    ['anvil', { code: -32603, message: 'EVM error OutOfGas' }],
  ])('catalog:19 market-api:W-56 a revert in the words of %s is a refusal', async (_node, error) => {
    const by = answering('eth_call', (asked) => failed(asked, error))
    expect(await check(link, by)).toMatchObject(refusedBy('contract'))
  })

  it('is asked once more when it closed the connection', async () => {
    let closed = 0
    const closing = createServer((request) => {
      closed += 1
      request.socket.destroy()
    })
    await new Promise<void>((resolve) => closing.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(closing.address() as AddressInfo).port}`
    expect(await check(link, connect(url))).toEqual({ kind: 'unknown', reason: 'eth_getCode: no answer' })
    expect(closed).toBe(2)
    closing.close()
    expect(await check(link, connect(url))).toMatchObject({ kind: 'unknown' })
  })

  it('holds nobody up for more than one time-out, however many wait', async () => {
    const by = connect(mockNode.url, 1_000)
    const start = performance.now()
    const verdicts = await Promise.all(
      Array.from({ length: 500 }, () => check({ ...link, signerAddress: newAddress() }, by)),
    )
    expect(new Set(verdicts.map(({ kind }) => kind))).toEqual(new Set(['unknown']))
    expect(performance.now() - start).toBeLessThan(5_000)
  })

  it('gets at most 32 calls at a time, and all of them in the end', async () => {
    let release = () => {}
    const released = new Promise<void>((resolve) => (release = resolve))
    let held = 0
    mockNode.answerTo = async (asked) => {
      if (asked.method === 'eth_getCode') {
        held += 1
        await released
      }
      return ok(asked, '0x')
    }
    const by = connect(mockNode.url)
    const checks = Array.from({ length: 300 }, () => check({ ...link, signerAddress: newAddress() }, by))
    await until('32 calls have arrived', () => held >= 32)
    // One more would have arrived before these, which are sent later.
    for (let probe = 0; probe < 20; probe += 1) {
      await fetch(mockNode.url, { method: 'POST', body: JSON.stringify({ id: probe, method: 'probe' }) })
    }
    expect(held).toBe(32)
    mockNode.mostAtOnce = 0
    release()
    expect(new Set((await Promise.all(checks)).map(({ kind }) => kind))).toEqual(new Set(['invalid']))
    expect(held).toBe(300)
    expect(mockNode.mostAtOnce).toBeLessThanOrEqual(32)
  })

  it('says nothing by a block without a number', async () => {
    const by = answering('eth_blockNumber', (asked) => ok(asked, '0x'))
    expect(await check(link, by)).toMatchObject({ kind: 'unknown' })
  })

  it('is asked again about an account after a failure, by all who waited for it together once', async () => {
    const by = answering('eth_getCode', () => ({ status: 500, body: '' }))
    const verdicts = await Promise.all([check(link, by), check(link, by)])
    expect(verdicts.map(({ kind }) => kind)).toEqual(['unknown', 'unknown'])
    expect(mockNode.methods()).toEqual(['eth_getCode'])
  })

  it('catalog:19 stalls on a real chain without a verdict, and is believed when it is back', async () => {
    await placeSafe(safe.safe, [owner.address])
    const by = connect(node.url, 3_000)
    node.answerTo = (asked) => (asked.method === 'eth_call' ? new Promise(() => {}) : askAnvil(asked))
    expect(await check(link, by)).toEqual({ kind: 'unknown', reason: 'eth_call: no answer in time' })
    node.answerTo = askAnvil
    expect(await check(link, connect())).toMatchObject({ kind: 'valid', signer: safe.safe })
  })
})
