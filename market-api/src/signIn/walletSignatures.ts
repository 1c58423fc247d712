import { isContractSignature, SIGN_IN_SIGNATURE_MAX_CHARACTERS, signatureCalls } from '@market/contracts/safeMessage'
import { UpstreamError } from '@market/kit/errors'
import {
  encodeDeployData,
  erc6492SignatureValidatorAbi,
  erc6492SignatureValidatorByteCode,
  hashMessage,
  type Hex,
  isErc6492Signature,
  recoverAddress,
} from 'viem'
import { accountAccepts, call, readAccountKind } from '../chain/accounts.ts'
import { connectNode, NodeError } from '../chain/node.ts'

export type WalletSignatures = {
  /**
   * Whether the account signed the message: with its own key (EIP-191), or, asked of the chain, by its contract's word
   * (ERC-1271 in both forms; ERC-6492 for one that isn't deployed yet). `account` in lower case.
   *
   * @throws UpstreamError `chain_unavailable`, 502, 504 when it took too long: nothing is known then.
   */
  signedBy(account: string, message: string, signature: string): Promise<boolean>
}

/** Sign-in must not take the node's time from catalog and payments. */
const CALLS_AT_ONCE = 8
const MAX_WAITING = 200

/** `timeoutMs` is for all that one signature asks of the node. */
export function connectWalletSignatures(options: {
  rpcUrl: string
  chainId: number
  timeoutMs: number
}): WalletSignatures {
  const { chainId, timeoutMs } = options
  const ask = connectNode({ ...options, callsAtOnce: CALLS_AT_ONCE, maxWaiting: MAX_WAITING })

  const askAccount = async (account: string, message: string, signature: string): Promise<boolean> => {
    const signal = AbortSignal.timeout(timeoutMs)
    const digest = hashMessage(message)
    if (isErc6492Signature(signature as Hex)) {
      // Runs the wrapper's deployment and the account's answer within one eth_call: nothing of it stays on the chain.
      const data = encodeDeployData({
        abi: erc6492SignatureValidatorAbi,
        bytecode: erc6492SignatureValidatorByteCode,
        args: [account as Hex, digest, signature as Hex],
      })
      return (await call(ask, { data }, signal)) === '0x01'
    }
    if ((await readAccountKind(ask, account, signal)) === 'none') return false
    const calls = signatureCalls({ preimage: message, digest, chainId, signer: account, signature })
    return accountAccepts(ask, account, calls, signal)
  }

  return {
    async signedBy(account, message, signature) {
      if (!isContractSignature(signature, SIGN_IN_SIGNATURE_MAX_CHARACTERS)) return false
      if ((await recoverSigner(message, signature)) === account) return true
      try {
        return await askAccount(account, message, signature)
      } catch (error) {
        if (!(error instanceof NodeError)) throw error
        const text = 'The chain could not be asked about the signature; try again'
        throw new UpstreamError('chain_unavailable', text, { cause: error, timeout: error.timedOut })
      }
    },
  }
}

/** v 0, 1, 27 or 28. */
const KEY_SIGNATURE = /^0x[0-9a-f]{128}(00|01|1b|1c)$/
/** Half the order of secp256k1: a larger s has a twin below, and wallets sign with that one. */
const MAX_S = '7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0'

/** Whose key made an EIP-191 signature, in lower case; undefined when it is none. */
async function recoverSigner(message: string, anyCase: string): Promise<string | undefined> {
  const signature = anyCase.toLowerCase()
  if (!KEY_SIGNATURE.test(signature) || signature.slice(66, 130) > MAX_S) return undefined
  try {
    return (await recoverAddress({ hash: hashMessage(message), signature: signature as Hex })).toLowerCase()
  } catch {
    // r or s outside the curve order, or r no point of the curve.
    return undefined
  }
}
