//! Component tests: pairs of whole proxies on loopback sockets, with certificates of a real authority.

mod connections;
mod edges;
mod grpc;
mod http;
mod lifecycle;
mod mesh;
mod overload;
mod rotation;
mod shares;
mod tcp;
mod token;
mod upgrades;
