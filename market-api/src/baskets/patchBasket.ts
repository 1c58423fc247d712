import type { MarketContext } from '../context.ts'
import {
  type Basket,
  type BasketPatch,
  DEFAULT_TTL_SECONDS,
  type RequestedLine,
  SLOT_MEMBERS,
  type SlotMember,
  wrongType,
} from './basket.ts'
import { BasketCheckedOutError, BasketVersionConflictError } from './errors.ts'
import { type BasketAccess, openDraft } from './openBasket.ts'
import { resolveLines } from './resolveLines.ts'
import { mergeIntoDraft } from './store.ts'

/** A patch that was checked: `lines` is `patch.items`, and `sent` the JSON it was read from. */
export type CheckedPatch = {
  patch: BasketPatch
  lines: RequestedLine[] | undefined
  sent: Record<string, unknown>
  /** RFC 7396 to the bottom. Otherwise a member replaces a member: wallets leave out the fields their user emptied. */
  deep: boolean
}

const ATTEMPTS = 5

/**
 * Changes the members that were sent; null clears one. Two patches of different members at once both stay.
 *
 * @throws UnsellableLineError 422 and others of `resolveLines`; OtherVersionError 412 by `If-Match`
 */
export async function patchBasket(ctx: MarketContext, basketId: string, access: BasketAccess, checked: CheckedPatch) {
  let items: Basket['items'] | undefined
  for (let attempt = 1; ; attempt += 1) {
    const stored = await openDraft(ctx, basketId, access)
    const { basket, version } = stored
    if (checked.lines !== undefined) items ??= (await resolveLines(ctx, basket, checked.lines)).items
    const changes = { ...membersOf(basket, checked), ...(items === undefined ? {} : { items }) }
    // What is computed from the stored members holds for the version they were read in.
    const guarded = access.ifMatch !== undefined || checked.deep || 'sentTypes' in changes
    const merged = await mergeIntoDraft(ctx.db, basketId, changes, ctx.now(), guarded ? version : undefined)
    if (merged) return merged
    // Between the read and the write another request changed it or checked it out; reading again says which.
    if (!guarded) throw new BasketCheckedOutError()
    if (attempt === ATTEMPTS) throw new BasketVersionConflictError(version)
  }
}

function membersOf(basket: Basket, { patch, sent, deep }: CheckedPatch): Partial<Basket> {
  const { items: _requested, ttlSeconds, ...members } = patch
  const present = SLOT_MEMBERS.filter((member) => members[member] !== undefined)
  return {
    // An absent member stays out of the merge; an explicit null goes in and clears.
    ...Object.fromEntries(
      present.map((member) => [member, deep ? mergeMember(basket, member, patch, sent) : members[member]]),
    ),
    ...(ttlSeconds === undefined ? {} : { ttlSeconds: ttlSeconds ?? DEFAULT_TTL_SECONDS }),
    ...sentTypesOf(basket, present, sent),
  }
}

/** The members hold nothing but texts, so one level is the bottom. */
function mergeMember(basket: Basket, member: SlotMember, patch: BasketPatch, sent: Record<string, unknown>) {
  const [before, given] = [basket[member], patch[member]]
  if (before == null || given == null) return given
  const named = Object.keys(sent[member] as object)
  return { ...before, ...Object.fromEntries(Object.entries(given).filter(([name]) => named.includes(name))) }
}

function sentTypesOf(basket: Basket, present: SlotMember[], sent: Record<string, unknown>): Partial<Basket> {
  const before = basket.sentTypes ?? {}
  const kept = Object.entries(before).filter(([member]) => !present.includes(member as SlotMember))
  const wrong = present.flatMap((member) => {
    const type = wrongType(member, sent[member])
    return type === undefined ? [] : [[member, type] as const]
  })
  if (wrong.length === 0 && kept.length === Object.keys(before).length) return {}
  return { sentTypes: Object.fromEntries([...kept, ...wrong]) }
}
