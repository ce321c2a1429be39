//! A DNS server (RFC 1035) that says what a test tells it, with a life of one second.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::JoinHandle};

const NXDOMAIN: u8 = 3;
const TYPE_A: u16 = 1;
const TTL_S: u32 = 1;

/// The server; it ends when dropped.
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    names: BTreeMap<String, Vec<Ipv4Addr>>,
    silent: bool,
    asked: usize,
}

impl NameServer {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("its address");
        let zone = Arc::<Mutex<Zone>>::default();
        let told = zone.clone();
        let serving = tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((count, peer)) = socket.recv_from(&mut packet).await {
                let answer = answer(&packet[..count], &mut told.lock().expect("the zone"));
                if let Some(answer) = answer {
                    socket.send_to(&answer, peer).await.unwrap_or_default();
                }
            }
        });
        Self {
            address,
            zone,
            serving,
        }
    }

    pub(super) fn tell(&self, name: &str, addresses: &[[u8; 4]]) {
        let addresses = addresses.iter().map(|a| Ipv4Addr::from(*a)).collect();
        let mut zone = self.zone.lock().expect("the zone");
        zone.names.insert(name.to_owned(), addresses);
    }

    /// Answers nobody any more.
    pub(super) fn fall_silent(&self) {
        self.zone.lock().expect("the zone").silent = true;
    }

    /// Questions so far.
    pub(super) fn asked(&self) -> usize {
        self.zone.lock().expect("the zone").asked
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(packet: &[u8], zone: &mut Zone) -> Option<Vec<u8>> {
    zone.asked += 1;
    if zone.silent {
        return None;
    }
    let mut at = 12;
    let mut labels = Vec::new();
    while packet.get(at).copied()? > 0 {
        let length = usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(packet.get(at + 1..=at + length)?).to_lowercase());
        at += length + 1;
    }
    let question = packet.get(12..at + 5)?;
    let kind = u16::from_be_bytes([packet[at + 1], packet[at + 2]]);
    let known = zone.names.get(&labels.join("."));
    let addresses = match known {
        Some(addresses) if kind == TYPE_A => addresses.as_slice(),
        _ => &[],
    };
    let code = if known.is_some() { 0 } else { NXDOMAIN };
    let mut answer = packet[..2].to_vec();
    answer.extend([
        0x85,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(addresses.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL_S.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
