import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Context } from 'hono'

/**
 * Node's own response to this request, to be written to directly, and what the handler returns instead of an answer. For
 * answers that stay open: a web stream a connection costs many times the memory and time. Headers set early
 * (`earlyHeader`) are on it. Throws without a server, as in a test's `app.request`.
 */
export function rawResponse(c: Context): { response: ServerResponse; answered: Response } {
  const { outgoing } = (c.env ?? {}) as { outgoing?: ServerResponse }
  if (!outgoing) throw new Error('there is no server whose response could be written to')
  // A clone, because the server looks for the mark in a Response of Node's own, and the constant is one of its replacement
  // when that stood in its place first.
  return { response: outgoing, answered: RESPONSE_ALREADY_SENT.clone() }
}
