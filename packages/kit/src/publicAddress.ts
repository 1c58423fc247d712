import { BlockList, isIP } from 'node:net'

/** The IANA registry of IPv4 special-purpose addresses, those said to be reachable included: nobody trades from them. */
const SPECIAL_V4 = subnets('ipv4', [
  '0.0.0.0/8', // this network
  '10.0.0.0/8', // private
  '100.64.0.0/10', // carrier-grade NAT
  '127.0.0.0/8', // loopback
  '169.254.0.0/16', // link-local: cloud metadata
  '172.16.0.0/12', // private
  '192.0.0.0/24', // protocol assignments
  '192.0.2.0/24', // documentation
  '192.31.196.0/24', // AS112
  '192.52.193.0/24', // AMT
  '192.88.99.0/24', // 6to4 relays, deprecated
  '192.168.0.0/16', // private
  '192.175.48.0/24', // AS112
  '198.18.0.0/15', // benchmarks
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, broadcast
])

/**
 * All of IPv6 that is handed out to networks. Outside are loopback, unspecified, mapped, NAT64, discard, segment routing,
 * unique local, link-local, site-local, multicast and what nobody has got yet.
 */
const UNICAST_V6 = subnets('ipv6', ['2000::/3'])
const SPECIAL_V6 = subnets('ipv6', [
  '2001::/23', // protocol assignments: Teredo, benchmarks, ORCHID
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4
  '2620:4f:8000::/48', // AS112
  '3fff::/20', // documentation
])

/**
 * Whether an address is on the open internet: none of the special-purpose registries (market-api.md W-32). An IPv6 address
 * that only carries an IPv4 one, mapped or for a NAT64, is what the inner address is. False for what is no address.
 */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address)
  if (family === 4) return !SPECIAL_V4.check(address, 'ipv4')
  // A zone names an interface of this machine.
  if (family !== 6 || address.includes('%')) return false
  const inner = innerV4(address)
  if (inner !== undefined) return !SPECIAL_V4.check(inner, 'ipv4')
  return UNICAST_V6.check(address, 'ipv6') && !SPECIAL_V6.check(address, 'ipv6')
}

/** The IPv4 address in `::ffff:0:0/96` and in `64:ff9b::/96`, which DNS64 answers with where there is no IPv4. */
function innerV4(address: string): string | undefined {
  const groups = groupsOf(address)
  const prefix = groups.slice(0, 6).join(':')
  if (prefix !== '0:0:0:0:0:ffff' && prefix !== '64:ff9b:0:0:0:0') return undefined
  const [high = 0, low = 0] = groups.slice(6).map((group) => Number.parseInt(group, 16))
  return [high >> 8, high & 255, low >> 8, low & 255].join('.')
}

/** The eight groups of a valid address, each in lower case and without leading zeros. */
function groupsOf(address: string): string[] {
  // The parser of URLs writes every address in one way, a dotted end as two groups.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const before = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  return [...before, ...Array<string>(8 - before.length - after.length).fill('0'), ...after]
}

function subnets(family: 'ipv4' | 'ipv6', networks: string[]): BlockList {
  const list = new BlockList()
  for (const network of networks) {
    const [address, prefix] = network.split('/')
    list.addSubnet(address!, Number(prefix), family)
  }
  return list
}
