import type { SignatureCall } from '@market/contracts/safeMessage'
import { type AskNode, ExecutionError, hexOf } from './node.ts'

/** `delegated`: a key's account that borrows a contract's code (EIP-7702); the key goes on to be valid. */
export type AccountKind = 'none' | 'contract' | 'delegated'

/** What an account is at the moment. Throws `NodeError`. */
export async function readAccountKind(ask: AskNode, account: string, signal?: AbortSignal): Promise<AccountKind> {
  const code = hexOf(await ask('eth_getCode', [account, 'latest'], signal))
  if (code === '0x') return 'none'
  return code.startsWith('0xef0100') ? 'delegated' : 'contract'
}

/** Whether an account with code says yes to one of these, asked in turn. Throws `NodeError`. */
export async function accountAccepts(
  ask: AskNode,
  account: string,
  calls: SignatureCall[],
  signal?: AbortSignal,
): Promise<boolean> {
  for (const { data, magic } of calls) {
    // A Safe judges only for itself as caller. No gas: nodes that take a given one literally fail every call (W-56).
    const answer = await call(ask, { from: account, to: account, data }, signal)
    if (answer.startsWith(magic)) return true
  }
  return false
}

/** What running the code answers, as hex; code that gives up says nothing, `0x`. Throws `NodeError`. */
export async function call(
  ask: AskNode,
  transaction: { from?: string; to?: string; data: string },
  signal?: AbortSignal,
): Promise<string> {
  const answer = await ask('eth_call', [transaction, 'latest'], signal).catch((error: unknown) => {
    if (error instanceof ExecutionError) return '0x'
    throw error
  })
  return hexOf(answer)
}
