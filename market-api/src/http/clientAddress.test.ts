import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { addressBehind } from './clientAddress.ts'

describe('addressBehind', () => {
  it.each([
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['::ffff:c000:207', '192.0.2.7'],
    ['0:0:0:0:0:FFFF:192.0.2.7', '192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:DB8:1:2::9', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['::', '0:0:0:0::/64'],
    ['1::', '1:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    // Not mapped: an address of its own kind that only looks like it.
    ['64:ff9b::192.0.2.7', '64:ff9b:0:0::/64'],
    [undefined, 'unknown'],
    ['', 'unknown'],
  ])('counts %s as %s', (remote, expected) => {
    expect(addressBehind(remote, undefined, 0)).toBe(expected)
  })

  const proxy = '10.0.0.1'
  it.each([
    ['no proxy is trusted', 0, '198.51.100.1', proxy],
    ['one is', 1, '198.51.100.1', '198.51.100.1'],
    ['the client wrote entries of its own', 1, '203.0.113.9, 198.51.100.1', '198.51.100.1'],
    ['two are', 2, 'junk, 198.51.100.1, 10.0.0.2', '198.51.100.1'],
    ['it came past one of the proxies', 2, '198.51.100.1', proxy],
    ['it came past all of them', 1, undefined, proxy],
    ['the entry is none', 1, '203.0.113.9, unknown', proxy],
    ['the entry is empty', 1, '203.0.113.9,', proxy],
    ['the entry has a port', 1, '198.51.100.1:4711', '198.51.100.1'],
    ['the entry is IPv6', 1, ' 2001:db8:1:2::9 ', '2001:db8:1:2::/64'],
    ['the entry is IPv6 with a port', 1, '[2001:db8:1:2::9]:4711', '2001:db8:1:2::/64'],
    ['the entry is IPv6 in brackets', 1, '[2001:db8:1:2::9]', '2001:db8:1:2::/64'],
  ])('when %s', (_, hops, forwardedFor, expected) => {
    expect(addressBehind(proxy, forwardedFor, hops)).toBe(expected)
  })

  it('takes every spelling of an IPv6 address for the same client, and its neighbours in the /64 too', () => {
    const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }))
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), fc.ipV6(), (groups, other) => {
        const long = groups.map((n) => n.toString(16).padStart(4, '0').toUpperCase()).join(':')
        const short = new URL(`http://[${long}]`).hostname
        const neighbour = [...groups.slice(0, 4), 0xabcd, 1, 2, 3].map((n) => n.toString(16)).join(':')
        const key = addressBehind(long, undefined, 0)
        expect(addressBehind(short.slice(1, -1), undefined, 0)).toBe(key)
        expect(addressBehind(proxy, `${other}, ${short}`, 1)).toBe(key)
        if (key.endsWith('/64')) expect(addressBehind(neighbour, undefined, 0)).toBe(key)
      }),
    )
  })

  it('never lets the left of the header decide', () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 1, max: 3 }), (forged, hops) => {
        const real = ['198.51.100.1', '10.0.0.3', '10.0.0.2'].slice(0, hops).join(', ')
        expect(addressBehind(proxy, `${forged}, ${real}`, hops)).toBe('198.51.100.1')
      }),
    )
  })
})
