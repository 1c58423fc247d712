// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

// Accounts with code, for tests of signatures (catalog.md 2.5). Written again to contractAccounts.gen.ts with
//   node tools/dev-chain/contracts/compile.mjs /tmp/solc market-api/test/contractAccounts.sol market-api/test/contractAccounts.gen.ts

/// Judges signatures as a Safe does: through its own domain, and only for a caller that is the Safe itself.
contract SafeDouble {
    bytes32 private constant DOMAIN_TYPE_HASH = keccak256("EIP712Domain(uint256 chainId,address verifyingContract)");
    bytes32 private constant MESSAGE_TYPE_HASH = keccak256("SafeMessage(bytes message)");

    address[] private owners;
    uint256 private threshold;
    mapping(bytes32 => bool) private approved;

    function setup(address[] calldata newOwners, uint256 newThreshold) external {
        owners = newOwners;
        threshold = newThreshold;
    }

    /// What signing a message on chain leaves behind; an empty signature refers to it.
    function approve(bytes calldata message) external {
        approved[messageHash(message)] = true;
    }

    function isValidSignature(bytes memory data, bytes memory signatures) public view returns (bytes4) {
        require(msg.sender == address(this), "SafeDouble: from is not the Safe");
        bytes32 hash = messageHash(data);
        if (signatures.length == 0) require(approved[hash], "Hash not approved");
        else checkSignatures(hash, signatures);
        return bytes4(keccak256("isValidSignature(bytes,bytes)"));
    }

    function isValidSignature(bytes32 hash, bytes memory signatures) external view returns (bytes4) {
        isValidSignature(abi.encode(hash), signatures);
        return bytes4(keccak256("isValidSignature(bytes32,bytes)"));
    }

    /// Of each owner 65 bytes, in the order of their addresses.
    function checkSignatures(bytes32 hash, bytes memory signatures) private view {
        require(signatures.length == 65 * threshold, "GS020");
        address last = address(0);
        for (uint256 i = 0; i < threshold; i++) {
            address owner = recover(hash, signatures, 65 * i);
            require(owner > last && isOwner(owner), "GS026");
            last = owner;
        }
    }

    function isOwner(address account) private view returns (bool) {
        for (uint256 i = 0; i < owners.length; i++) {
            if (owners[i] == account) return true;
        }
        return false;
    }

    function messageHash(bytes memory message) private view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPE_HASH, block.chainid, address(this)));
        bytes32 content = keccak256(abi.encode(MESSAGE_TYPE_HASH, keccak256(message)));
        return keccak256(abi.encodePacked(bytes1(0x19), bytes1(0x01), domain, content));
    }
}

/// Knows ERC-1271 in its final form only, as most wallets that are no Safe do, and asks for the plain hash.
contract PlainWallet {
    address private owner;

    function setup(address newOwner) external {
        owner = newOwner;
    }

    function isValidSignature(bytes32 hash, bytes memory signature) external view returns (bytes4) {
        bool good = signature.length == 65 && recover(hash, signature, 0) == owner;
        return good ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

function recover(bytes32 hash, bytes memory signatures, uint256 offset) pure returns (address) {
    bytes32 r;
    bytes32 s;
    uint8 v;
    assembly {
        let start := add(add(signatures, 0x20), offset)
        r := mload(start)
        s := mload(add(start, 0x20))
        v := byte(0, mload(add(start, 0x40)))
    }
    return ecrecover(hash, v, r, s);
}
