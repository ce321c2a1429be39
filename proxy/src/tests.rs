//! Component tests: pairs of whole proxies on loopback sockets, with certificates of a real authority.

mod connect;
mod connections;
mod edges;
mod grpc;
mod http;
mod lifecycle;
mod max_requests;
mod mesh;
mod mirror;
mod overload;
mod resumption;
mod rotation;
mod shares;
mod tcp;
mod token;
mod trailers;
mod upgrades;
