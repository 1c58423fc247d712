import { isIP, isIPv4 } from 'node:net'
import { requestHeader } from '@market/kit/http'
import type { Context } from 'hono'

/** What of a client counts as one client: its IPv4 address, or the /64 network that an IPv6 client has to itself. */
export function clientAddress(c: Context, trustedProxyHops: number): string {
  const { incoming } = (c.env ?? {}) as { incoming?: { socket: { remoteAddress?: string | undefined } } }
  const forwardedFor = trustedProxyHops > 0 ? requestHeader(c, 'x-forwarded-for') : undefined
  return addressBehind(incoming?.socket.remoteAddress, forwardedFor, trustedProxyHops)
}

/**
 * The client behind `trustedProxyHops` proxies, each of which appended whom it heard from to X-Forwarded-For: the entry
 * that many from the right. What stands further left anybody may have written. Without a usable entry the request did not
 * come through all the proxies, and counts for whoever connected.
 */
export function addressBehind(remote: string | undefined, forwardedFor: string | undefined, trustedProxyHops: number) {
  const entry = trustedProxyHops > 0 ? forwardedFor?.split(',').at(-trustedProxyHops) : undefined
  return networkOf(entry ?? '') ?? networkOf(remote ?? '') ?? 'unknown'
}

function networkOf(text: string): string | undefined {
  const address = withoutPort(text.trim())
  // How a server that listens for both sees every IPv4 client.
  const plain = address.startsWith('::ffff:') ? address.slice(7) : address
  if (isIPv4(plain)) return plain
  if (isIP(address) !== 6) return undefined
  const groups = expand(address)
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff
  if (isMapped) return [groups[6]! >> 8, groups[6]! & 255, groups[7]! >> 8, groups[7]! & 255].join('.')
  const network = groups.slice(0, 4).map((group) => group.toString(16))
  return `${network.join(':')}::/64`
}

/** Some proxies write `192.0.2.1:4711` and `[2001:db8::1]:4711`; a link-local address may name its interface after `%`. */
function withoutPort(text: string): string {
  const [, bracketed] = /^\[(.*)\](?::[0-9]+)?$/.exec(text) ?? []
  return (bracketed ?? text.replace(/^([0-9.]+):[0-9]+$/, '$1')).replace(/%.*$/, '')
}

/** The eight groups of an IPv6 address that is known to be one. */
function expand(address: string): number[] {
  const read = (part: string) =>
    part
      .split(':')
      .filter((group) => group !== '')
      .flatMap((group) => {
        if (!group.includes('.')) return [Number.parseInt(group, 16)]
        const [a, b, c, d] = group.split('.').map(Number)
        return [a! * 256 + b!, c! * 256 + d!]
      })
  const [before = '', after] = address.split('::')
  const head = read(before)
  if (after === undefined) return head
  const tail = read(after)
  return [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
}
