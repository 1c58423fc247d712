// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

// Stand-ins for the Circles contracts the market meets on Gnosis Chain. Development only: the faucet mints for
// everybody, nobody registers an avatar, and nothing here was written to hold value.

contract NameRegistry {
    event UpdateMetadataDigest(address indexed avatar, bytes32 metadataDigest);

    mapping(address => bytes32) public getMetadataDigest;

    function updateMetadataDigest(bytes32 metadataDigest) external {
        getMetadataDigest[msg.sender] = metadataDigest;
        emit UpdateMetadataDigest(msg.sender, metadataDigest);
    }
}

interface IERC1155Receiver {
    function onERC1155Received(address operator, address from, uint256 id, uint256 amount, bytes calldata data)
        external
        returns (bytes4);
}

contract DevHub {
    event TransferSingle(address indexed operator, address indexed from, address indexed to, uint256 id, uint256 value);

    mapping(address => mapping(uint256 => uint256)) private balances;

    function balanceOf(address account, uint256 id) external view returns (uint256) {
        return balances[account][id];
    }

    /// Anybody may mint anybody's tokens, to themselves.
    function faucet(address avatar, uint256 amount) external {
        uint256 id = uint256(uint160(avatar));
        balances[msg.sender][id] += amount;
        emit TransferSingle(msg.sender, address(0), msg.sender, id, amount);
    }

    function safeTransferFrom(address from, address to, uint256 id, uint256 amount, bytes calldata data) external {
        require(from == msg.sender, "DevHub: only the holder transfers");
        require(to != address(0), "DevHub: transfer to nobody");
        require(balances[from][id] >= amount, "DevHub: balance too low");
        balances[from][id] -= amount;
        balances[to][id] += amount;
        emit TransferSingle(msg.sender, from, to, id, amount);
        if (to.code.length > 0) {
            bytes4 answer = IERC1155Receiver(to).onERC1155Received(msg.sender, from, id, amount, data);
            require(answer == IERC1155Receiver.onERC1155Received.selector, "DevHub: receiver refused");
        }
    }
}

/// Emits for all its gateways, so that a market can tell a real gateway's logs by the one address they come from.
contract PaymentGatewayFactory {
    event GatewayCreated(address indexed owner, address indexed gateway);
    event PaymentReceived(
        address indexed payer,
        address indexed payee,
        address indexed gateway,
        uint256 tokenId,
        uint256 amount,
        bytes data
    );
    event TrustUpdated(address indexed gateway, address indexed trustReceiver, uint96 expiry);

    address public immutable hub;
    mapping(address => address) public gatewayOf;
    mapping(address => bool) public isGateway;

    modifier onlyGateway() {
        require(isGateway[msg.sender], "PaymentGatewayFactory: not one of my gateways");
        _;
    }

    constructor(address hub_) {
        hub = hub_;
    }

    /// One gateway per owner, at an address that depends on the owner alone; a second call returns the first's.
    function createGateway() external returns (address gateway) {
        gateway = gatewayOf[msg.sender];
        if (gateway != address(0)) return gateway;
        gateway = address(new PaymentGateway{salt: bytes32(0)}(msg.sender, hub));
        gatewayOf[msg.sender] = gateway;
        isGateway[gateway] = true;
        emit GatewayCreated(msg.sender, gateway);
    }

    function paymentReceived(address payer, address payee, uint256 tokenId, uint256 amount, bytes calldata data)
        external
        onlyGateway
    {
        emit PaymentReceived(payer, payee, msg.sender, tokenId, amount, data);
    }

    function trustUpdated(address trustReceiver, uint96 expiry) external onlyGateway {
        emit TrustUpdated(msg.sender, trustReceiver, expiry);
    }
}

contract PaymentGateway is IERC1155Receiver {
    PaymentGatewayFactory public immutable factory;
    address public immutable owner;
    address public immutable hub;

    constructor(address owner_, address hub_) {
        factory = PaymentGatewayFactory(msg.sender);
        owner = owner_;
        hub = hub_;
    }

    function setTrust(address avatar, uint96 expiry) external {
        require(msg.sender == owner, "PaymentGateway: only the owner trusts");
        factory.trustUpdated(avatar, expiry);
    }

    /// Takes any token, trusted or not: whether a transfer counts is for the market to decide.
    function onERC1155Received(address, address from, uint256 id, uint256 amount, bytes calldata data)
        external
        returns (bytes4)
    {
        require(msg.sender == hub, "PaymentGateway: only the hub pays");
        factory.paymentReceived(from, owner, id, amount, data);
        return IERC1155Receiver.onERC1155Received.selector;
    }
}
