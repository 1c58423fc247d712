import { safeDomainSeparator, SAFE_MESSAGE_TYPE_HASH, safeMessageHash } from '@market/contracts/safeMessage'
import { AppError } from '@market/kit/errors'
import { until } from '@market/testkit/until'
import {
  type Abi,
  concatHex,
  encodeAbiParameters,
  encodeFunctionData,
  getContractAddress,
  hashMessage,
  type Hex,
  keccak256,
  numberToHex,
  pad,
  serializeErc6492Signature,
  size,
  sliceHex,
  stringToHex,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
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
import { connectWalletSignatures, type WalletSignatures } from './walletSignatures.ts'

/** market-api.md, appendix B. */
const B = {
  key: numberToHex(1n, { size: 32 }),
  address: '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf',
  message: [
    'market.example.com wants you to sign in with your Ethereum account:',
    '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf',
    '',
    'Sign in to Circles Market',
    '',
    'URI: https://market.example.com',
    'Version: 1',
    'Chain ID: 100',
    'Nonce: 0x00112233445566778899aabbccddeeff',
    'Issued At: 2026-01-01T00:00:00.0000000+00:00',
    'Expiration Time: 2026-01-01T00:10:00.0000000+00:00',
  ].join('\n'),
  keccak: '0x9c295f506f3276a681d2c4deb9257cdb19249ac4d4419f1aa102105d95466057',
  digest: '0x0ebb43919c4cfc695144ea13ca29a10f50600cd8abc4183f1df2d32b56c72197',
  signature:
    '0x23b116a369242755af1b24edbfebc84604da9b15c9be9bf6abd482b2fcb40da72cf9441407960d7a7f5c1fc513eb0f24989114d6982f37545f5a2dec90ef67bc1b',
  overKeccak:
    '0x0e075e5879be84acf82b6c8374f88faeef0e2c501d3df2c540cba101c73bf5d50e17c63f255b025af01a5c21285043397b88e948594383bb0a270605c5b846771c',
  typeHash: '0x60b3cbf8b4a223d68d641b3b6ddf9a298e7f33710cf3d3a9d1146b5a6150fbca',
  safe: '0x5afe5afe5afe5afe5afe5afe5afe5afe5afe5afe',
  separator: '0x7a95abeafd4fb34006e34435c7a9da036ed05d94c2fd5da45476dcf9e1221741',
  safeHash: '0x1cf0c0ebd56fb74a570d986589b273785fbd9cb891f07b33a913e3862a8fa0c7',
  ofOwner:
    '0x769bdc238bcbfb02b472dd706cf63ac978bc312bd57cd1d859d666fd80411f7575eb6210c5a457293e8cb658778efd865c9b26c3f618ac58b54aba452ec6c3551b',
} as const

const SECP256K1_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n
const [owner, second, third, stranger] = [1n, 2n, 3n, 4n].map((n) => {
  const privateKey = numberToHex(n, { size: 32 })
  return { privateKey, address: privateKeyToAccount(privateKey).address.toLowerCase() as Hex }
}) as [Owner, Owner, Owner, Owner]
type Owner = { privateKey: Hex; address: Hex }

let chain: AccountChain
const node = startNodeProxy((asked) => chain.ask(asked))
let wallets: WalletSignatures
beforeAll(async () => {
  chain = await startAccountChain()
  await node.listen()
  wallets = connect()
})
afterAll(async () => {
  node.close()
  await chain?.stop()
})
beforeEach(() => {
  node.asked = []
  node.answerTo = (asked) => chain.ask(asked)
})
const connect = (timeoutMs = 20_000) => connectWalletSignatures({ rpcUrl: node.url, chainId: 100, timeoutMs })
const by = (account: string, signature: string, message: string = B.message) =>
  wallets.signedBy(account, message, signature)

let placed = 0
const newAddress = (): Hex =>
  `0x${(0x51600000000000000000000000000000000000n + BigInt((placed += 1))).toString(16).padStart(40, '0')}`

describe('the vectors of appendix B', () => {
  it('market-api:appendix-B recomputes every hash', async () => {
    expect(Buffer.byteLength(B.message)).toBe(333)
    expect(keccak256(stringToHex(B.message))).toBe(B.keccak)
    expect(hashMessage(B.message)).toBe(B.digest)
    expect(SAFE_MESSAGE_TYPE_HASH).toBe(B.typeHash)
    expect(safeDomainSeparator(100, B.safe)).toBe(B.separator)
    expect(safeMessageHash(100, B.safe, Buffer.from(B.message))).toBe(B.safeHash)
    expect(await signed(B.digest, owner)).toBe(B.signature)
    expect(await signed(B.safeHash, owner)).toBe(B.ofOwner)
  })

  it('market-api:appendix-B accepts the signature of the key, and asks nobody', async () => {
    expect(await by(B.address, B.signature)).toBe(true)
    expect(node.asked).toEqual([])
  })

  it('market-api:appendix-B market-api:W-34 does not accept the plain hash signed', async () => {
    expect(await by(B.address, B.overKeccak)).toBe(false)
    expect(node.methods()).toEqual(['eth_getCode'])
  })

  it('market-api:appendix-B accepts the owner’s signature for the Safe, by the bytes form', async () => {
    expect(await by(B.safe, B.ofOwner)).toBe(false)
    await chain.placeSafe(B.safe, [owner.address])
    node.asked = []
    expect(await by(B.safe, B.ofOwner)).toBe(true)
    expect(node.methods()).toEqual(['eth_getCode', 'eth_call'])
    expect(node.calls()[0]!.data!.slice(0, 10)).toBe('0x20c13b0b')
    for (const signature of [B.signature, B.overKeccak, B.ofOwner.replace('0x76', '0x77')]) {
      expect(await by(B.safe, signature)).toBe(false)
    }
  })
})

describe('a key', () => {
  const at = (v: string) => B.signature.slice(0, -2) + v

  it('may write v in either way, and hex in any case', async () => {
    for (const signature of [at('1b'), at('00'), B.signature.toUpperCase().replace('0X', '0x')]) {
      expect(await by(B.address, signature)).toBe(true)
    }
    expect(node.asked).toEqual([])
  })

  it('market-api:A-139 is not believed with another v, the other half of s, 64 bytes, or another text', async () => {
    const s = BigInt(`0x${B.signature.slice(66, 130)}`)
    const highS = `${B.signature.slice(0, 66)}${(SECP256K1_ORDER - s).toString(16).padStart(64, '0')}1c`
    const zero = `0x${'00'.repeat(64)}1b`
    for (const signature of [at('1c'), at('01'), at('1d'), at('1a'), highS, zero, B.signature.slice(0, -2)]) {
      expect(await by(B.address, signature), signature).toBe(false)
    }
    expect(await by(B.address, B.signature, `${B.message} `)).toBe(false)
    expect(await by(stranger.address, B.signature)).toBe(false)
  })

  it('is not looked for on the chain when the signature is no hex, or over 8 KiB', async () => {
    const longest = `0x${'ab'.repeat(8192)}`
    for (const signature of [`${longest}ab`, '0xabc', B.signature.slice(2), '', '0x0g', `${B.signature}\n`]) {
      expect(await by(B.address, signature)).toBe(false)
    }
    expect(node.asked).toEqual([])
    expect(await by(B.address, longest)).toBe(false)
    expect(await by(B.address, '0x')).toBe(false)
    expect(node.methods()).toEqual(['eth_getCode', 'eth_getCode'])
  })
})

describe('a Safe', () => {
  const safe = newAddress()
  const hash = safeMessageHash(100, safe, Buffer.from(B.message))
  beforeAll(() => chain.placeSafe(safe, [owner.address, second.address, third.address], 2))

  it('market-api:A-141 of three takes the signatures of two, and not less', async () => {
    const two = await signed(hash, third, owner)
    expect(size(two)).toBe(130)
    expect(await by(safe, two)).toBe(true)
    const twice = await signed(hash, owner)
    for (const signature of [
      twice,
      `${twice}${twice.slice(2)}`,
      await signed(hash, owner, stranger),
      `${two}00`,
      '0x',
    ]) {
      expect(await by(safe, signature)).toBe(false)
    }
    expect(await by(safe, two, B.message.replace('market', 'marked'))).toBe(false)
  })

  it('market-api:W-56 is asked in turn by the three forms, as itself and without gas', async () => {
    expect(await by(safe, '0xabcd')).toBe(false)
    expect(node.calls().map(({ data }) => data!.slice(0, 10))).toEqual(['0x20c13b0b', '0x1626ba7e', '0x1626ba7e'])
    expect(
      node
        .calls()
        .map(({ data }) => `0x${data!.slice(10, 74)}`)
        .slice(1),
    ).toEqual([B.digest, hash])
    for (const call of node.calls()) expect(call).toEqual({ from: safe, to: safe, data: call.data })
  })

  it('takes what its owners signed for the EIP-191 hash, as wallets that know ERC-1271 have them sign', async () => {
    const wrapped = safeMessageHash(100, safe, Buffer.from(B.digest.slice(2), 'hex'))
    expect(await by(safe, await signed(wrapped, owner, second))).toBe(true)
    expect(node.calls()).toHaveLength(2)
  })

  it('takes what its owners signed for its own hash of the text (market-api.md 3.7, 4a)', async () => {
    const wrapped = safeMessageHash(100, safe, Buffer.from(hash.slice(2), 'hex'))
    expect(await by(safe, await signed(wrapped, owner, second))).toBe(true)
    expect(node.calls()).toHaveLength(3)
  })

  it('may have approved the text on chain instead', async () => {
    const data = encodeFunctionData({ abi: safeDouble.abi, functionName: 'approve', args: [stringToHex('approved')] })
    expect(await by(safe, '0x', 'approved')).toBe(false)
    await chain.send({ to: safe, data })
    expect(await by(safe, '0x', 'approved')).toBe(true)
  })

  it('of another chain’s owners’ signature is refused', async () => {
    expect(await by(safe, await signed(safeMessageHash(1, safe, Buffer.from(B.message)), owner, second))).toBe(false)
  })
})

describe('other accounts with code', () => {
  it('a wallet that knows the final ERC-1271 only takes its owner’s EIP-191 signature', async () => {
    const at = newAddress()
    await chain.place(plainWallet as unknown as { abi: Abi; bytecode: Hex }, at, owner.address)
    expect(await by(at, B.signature)).toBe(true)
    expect(await by(at, await signed(B.digest, second))).toBe(false)
    // What a Safe would take, and market-api.md W-34's plain hash, are no signature of this wallet.
    expect(await by(at, B.overKeccak)).toBe(false)
  })

  it.each([
    ['reverts', '0x60006000fd'],
    ['burns all gas', '0x5b600056'],
    ['answers nothing', '0x00'],
    ['answers something else', '0x631626ba7f60e01b60005260206000f3'],
  ])('one that %s refuses', async (_what, code) => {
    const at = newAddress()
    await chain.rpc('anvil_setCode', at, code)
    expect(await by(at, B.signature)).toBe(false)
    expect(node.calls()).toHaveLength(3)
  })
})

describe('a wallet that is not deployed yet (ERC-6492)', () => {
  /** In every anvil, as on most chains: what comes behind the salt is deployed by CREATE2. */
  const FACTORY = '0x4e59b44847b379578588920ca78fbf26c0b4956c'
  const salt = pad('0x01')
  const RUNTIME = sliceHex(plainWallet.bytecode, 28)
  /** Stores the owner where `setup` would, then returns the wallet's code. */
  const initCode = concatHex([
    '0x73',
    owner.address,
    '0x600055',
    '0x61',
    numberToHex(size(RUNTIME), { size: 2 }),
    '0x8060246000396000f3',
    RUNTIME,
  ])
  const wallet = getContractAddress({
    opcode: 'CREATE2',
    from: FACTORY,
    salt,
    bytecodeHash: keccak256(initCode),
  }).toLowerCase() as Hex
  const wrap = (signature: Hex, data: Hex = concatHex([salt, initCode])) =>
    serializeErc6492Signature({ address: FACTORY, data, signature })

  it('signs in with its wrapped signature; nothing is sent to the chain', async () => {
    const before = await chain.rpc('eth_blockNumber')
    expect(await by(wallet, wrap(B.signature))).toBe(true)
    expect(node.methods()).toEqual(['eth_call'])
    expect(node.calls()[0]).toEqual({ data: expect.any(String) })
    expect(await chain.rpc('eth_getCode', wallet, 'latest')).toBe('0x')
    expect(await chain.rpc('eth_blockNumber')).toBe(before)
  })

  it('is refused another key’s signature, another text, another address, and a factory that makes nothing', async () => {
    expect(await by(wallet, wrap(await signed(B.digest, second)))).toBe(false)
    expect(await by(wallet, wrap(B.signature), 'another text')).toBe(false)
    expect(await by(stranger.address, wrap(B.signature))).toBe(false)
    expect(await by(owner.address, wrap(B.signature), 'another text')).toBe(false)
    expect(await by(wallet, wrap(B.signature, '0x'))).toBe(false)
    expect(await by(wallet, B.signature)).toBe(false)
  })

  it('is refused what only looks wrapped', async () => {
    const magic = '6492'.repeat(16)
    for (const body of ['', '00', 'ff'.repeat(96), encodeAbiParameters([{ type: 'bytes' }], ['0x']).slice(2)]) {
      expect(await by(wallet, `0x${body}${magic}`)).toBe(false)
    }
  })

  it('signs in the same way when it has been deployed since', async () => {
    await chain.send({ to: FACTORY, data: concatHex([salt, initCode]) })
    expect(await by(wallet, wrap(B.signature))).toBe(true)
    expect(await by(wallet, B.signature)).toBe(true)
    expect(await by(wallet, wrap(await signed(B.digest, second)))).toBe(false)
  })
})

describe('a node that does not answer', () => {
  const failure = async (work: Promise<unknown>) => {
    const error = await work.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(AppError)
    const { status, code } = error as AppError
    return [status, code]
  }
  const answer = (asked: Asked, result: unknown): Answer => ({
    body: JSON.stringify({ jsonrpc: '2.0', id: asked.id, result }),
  })

  it.each(['eth_getCode', 'eth_call'])(
    'market-api:A-142 to %s leaves the signature unjudged: 502, or 504',
    async (method) => {
      const failing = (result: Answer) => {
        node.answerTo = async (asked) => (asked.method === method ? result : answer(asked, '0x60'))
      }
      failing({ status: 500, body: '' })
      expect(await failure(by(B.safe, B.ofOwner))).toEqual([502, 'chain_unavailable'])
      failing('nothing')
      expect(await failure(connect(500).signedBy(B.safe, B.message, B.ofOwner))).toEqual([504, 'chain_unavailable'])
      // A key's own signature needs no chain.
      expect(await by(B.address, B.signature)).toBe(true)
    },
  )

  it('gets 8 calls at a time, keeps nobody longer than the time-out, and not more than 200 waiting', async () => {
    let held = 0
    node.answerTo = async ({ method }) => {
      if (method === 'eth_getCode') held += 1
      return method === 'probe' ? { body: '' } : 'nothing'
    }
    const impatient = connect(2000)
    const started = performance.now()
    const many = Array.from({ length: 230 }, () => failure(impatient.signedBy(B.safe, B.message, B.ofOwner)))
    await until('the calls have arrived', () => held >= 8)
    // One more would have arrived before these, which are sent later.
    for (let id = 0; id < 20; id += 1) {
      await fetch(node.url, { method: 'POST', body: JSON.stringify({ id, method: 'probe' }) })
    }
    expect(held).toBe(8)
    const outcomes = (await Promise.all(many)).map(([status]) => status)
    // One after the other, it would be a minute.
    expect(performance.now() - started).toBeLessThan(15_000)
    expect(outcomes.filter((status) => status === 503)).toHaveLength(22)
    expect(outcomes.filter((status) => status === 504)).toHaveLength(208)
  })
})
