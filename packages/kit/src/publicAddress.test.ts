import { isIP } from 'node:net'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isPublicAddress } from './publicAddress.ts'

/** First and last address of every row of the IANA special-purpose registries, of multicast and of site-local. */
const SPECIAL: [name: string, first: string, last: string][] = [
  ['this network', '0.0.0.0', '0.255.255.255'],
  ['private', '10.0.0.0', '10.255.255.255'],
  ['shared with a carrier', '100.64.0.0', '100.127.255.255'],
  ['loopback', '127.0.0.0', '127.255.255.255'],
  ['link-local', '169.254.0.0', '169.254.255.255'],
  ['private', '172.16.0.0', '172.31.255.255'],
  ['protocol assignments', '192.0.0.0', '192.0.0.255'],
  ['TEST-NET-1', '192.0.2.0', '192.0.2.255'],
  ['AS112', '192.31.196.0', '192.31.196.255'],
  ['AMT', '192.52.193.0', '192.52.193.255'],
  ['6to4 relays', '192.88.99.0', '192.88.99.255'],
  ['private', '192.168.0.0', '192.168.255.255'],
  ['AS112 by delegation', '192.175.48.0', '192.175.48.255'],
  ['benchmarks', '198.18.0.0', '198.19.255.255'],
  ['TEST-NET-2', '198.51.100.0', '198.51.100.255'],
  ['TEST-NET-3', '203.0.113.0', '203.0.113.255'],
  ['multicast', '224.0.0.0', '239.255.255.255'],
  ['reserved and broadcast', '240.0.0.0', '255.255.255.255'],
  ['unspecified', '::', '::'],
  ['loopback', '::1', '::1'],
  ['IPv4-compatible', '::2', '::ffff:ffff'],
  ['translated', '::ffff:0:0:0', '::ffff:0:ffff:ffff'],
  ['NAT64 of a site', '64:ff9b:1::', '64:ff9b:1:ffff:ffff:ffff:ffff:ffff'],
  ['discard', '100::', '100::ffff:ffff:ffff:ffff'],
  ['dummy', '100:0:0:1::', '100:0:0:1:ffff:ffff:ffff:ffff'],
  ['Teredo', '2001::', '2001:0:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['protocol assignments', '2001:1::', '2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['documentation', '2001:db8::', '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['6to4', '2002::', '2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['AS112', '2620:4f:8000::', '2620:4f:8000:ffff:ffff:ffff:ffff:ffff'],
  ['documentation', '3fff::', '3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['segment routing', '5f00::', '5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['unique local', 'fc00::', 'fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['link-local', 'fe80::', 'febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['site-local', 'fec0::', 'feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['multicast', 'ff00::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
]

const v4Number = (text: string) => text.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n)

/** Of an address written in hexadecimal groups. */
function numberOf(text: string): bigint {
  const [before = [], after] = text.split('::').map((half) => (half === '' ? [] : half.split(':')))
  const zeros = after === undefined ? [] : Array<string>(8 - before.length - after.length).fill('0')
  return [...before, ...zeros, ...(after ?? [])].reduce((sum, group) => sum * 65_536n + BigInt(`0x${group}`), 0n)
}

describe('isPublicAddress', () => {
  it.each(SPECIAL)('fulfilment:F-12 refuses %s: %s to %s', (_, first, last) => {
    expect([isPublicAddress(first), isPublicAddress(last)]).toEqual([false, false])
  })

  it.each([
    ['v4', '1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255'],
    ['v4', '169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.169.0.0 198.17.255.255 198.20.0.0'],
    ['v6', '2001:200:: 2001:4860:4860::8888 2001:db7:ffff:: 2001:db9:: 2003:: 2620:4f:8001:: 2a00::1'],
  ])('lets %s addresses pass that are outside or right beside them: %s', (_, addresses) => {
    for (const address of addresses.split(' ')) expect(isPublicAddress(address), address).toBe(true)
  })

  it('takes an address that carries another for the inner one, however it is written', () => {
    const v4 = fc.tuple(...Array.from({ length: 4 }, () => fc.integer({ min: 0, max: 255 })))
    fc.assert(
      fc.property(
        v4,
        fc.constantFrom('::ffff:', '0:0:0:0:0:ffff:', '64:ff9b::', '64:FF9B:0:0:0:0:'),
        (bytes, prefix) => {
          const dotted = bytes.join('.')
          const hex = bytes.map((byte) => byte.toString(16).padStart(2, '0'))
          const groups = `${hex[0]}${hex[1]}:${hex[2]}${hex[3]}`
          expect(isPublicAddress(prefix + dotted)).toBe(isPublicAddress(dotted))
          expect(isPublicAddress(prefix + groups)).toBe(isPublicAddress(dotted))
        },
      ),
      {
        examples: [
          [[10, 0, 0, 1], '::ffff:'],
          [[8, 8, 0, 0], '64:ff9b::'],
          [[0, 0, 0, 0], '::ffff:'],
        ] as never,
      },
    )
  })

  it('says the same of an address however it is written', () => {
    const special = SPECIAL.filter(([, first]) => first.includes(':')).map(([, first, last]) => [
      numberOf(first),
      numberOf(last),
    ])
    const specialV4 = SPECIAL.filter(([, first]) => !first.includes(':')).map(([, first, last]) => [
      v4Number(first),
      v4Number(last),
    ])
    const among = (ranges: bigint[][], n: bigint) => ranges.some(([first, last]) => first! <= n && n <= last!)
    /** By numbers alone, as the registries have them. */
    const expected = (n: bigint) => {
      const carries = n >> 32n === 0xffffn || n >> 32n === 0x64ff9bn << 64n
      if (carries) return !among(specialV4, n & 0xffff_ffffn)
      return n >> 125n === 1n && !among(special, n)
    }
    // Near an end of a range, carrying an IPv4 address, or anywhere in the part that networks get.
    const number = fc.oneof(
      fc
        .tuple(fc.constantFrom(...special.flat()), fc.bigInt({ min: -2n, max: 2n }))
        .map(([end, by]) => BigInt.asUintN(128, end! + by)),
      fc
        .tuple(
          fc.constantFrom(0xffffn << 32n, 0x64ff9bn << 96n),
          fc.constantFrom(...specialV4.flat()),
          fc.bigInt({ min: -1n, max: 1n }),
        )
        .map(([prefix, end, by]) => prefix | BigInt.asUintN(32, end! + by)),
      fc.bigInt({ min: 0x2000n << 112n, max: (0x4000n << 112n) - 1n }),
    )
    fc.assert(
      fc.property(number, fc.boolean(), fc.boolean(), fc.boolean(), fc.nat(7), (n, padded, upper, dotted, at) => {
        const groups = Array.from({ length: 8 }, (_, i) => (n >> BigInt(112 - 16 * i)) & 0xffffn)
        const words = groups.map((group) => group.toString(16).padStart(padded ? 4 : 1, '0'))
        if (dotted) {
          const low = [groups[6]! >> 8n, groups[6]! & 255n, groups[7]! >> 8n, groups[7]! & 255n]
          words.splice(6, 2, low.join('.'))
        }
        // One run of zeros may be left out, and it need not be the longest.
        let end = at
        while (end < words.length && /^0+$/.test(words[end]!)) end += 1
        const text = end > at ? `${words.slice(0, at).join(':')}::${words.slice(end).join(':')}` : words.join(':')
        const written = upper ? text.toUpperCase() : text
        expect(isIP(written), written).toBe(6)
        expect(isPublicAddress(written), written).toBe(expected(n))
      }),
      { numRuns: 2000 },
    )
  })

  it('refuses what is no address, and one of this machine alone', () => {
    for (const text of [
      '',
      'localhost',
      '10.0.0',
      '0x7f.1',
      '8.8.8.8:80',
      '[2a00::1]',
      'fe80::1%eth0',
      '2a00::1%eth0',
    ]) {
      expect(isPublicAddress(text), text).toBe(false)
    }
  })
})
