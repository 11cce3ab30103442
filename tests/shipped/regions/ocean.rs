//! What is between two regions: bytes take a while, or do not arrive at all.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Passes connections on, late. Parted, it holds back whatever is under way, as a network does that comes back: nobody
/// is told.
#[derive(Debug)]
pub struct Ocean {
    address: SocketAddr,
    weather: Arc<Weather>,
}

#[derive(Debug)]
struct Weather {
    latency: Duration,
    parted: Mutex<bool>,
    mended: Condvar,
}

impl Ocean {
    /// A way from an address of the one region's shore to one in the other region.
    pub fn between(shore: IpAddr, target: SocketAddr, latency: Duration) -> Ocean {
        let listener = TcpListener::bind((shore, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(Weather {
            latency,
            parted: Mutex::new(false),
            mended: Condvar::new(),
        });
        let sea = Arc::clone(&weather);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let sea = Arc::clone(&sea);
                std::thread::spawn(move || {
                    sea.arrive(Instant::now());
                    let Ok(server) = TcpStream::connect(target) else {
                        return;
                    };
                    sea.pass(&client, &server);
                    sea.pass(&server, &client);
                });
            }
        });
        Ocean { address, weather }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing arrives.
    pub fn part(&self) {
        *self.weather.parted.lock().unwrap() = true;
    }

    /// What was held back arrives.
    pub fn mend(&self) {
        *self.weather.parted.lock().unwrap() = false;
        self.weather.mended.notify_all();
    }
}

impl Weather {
    /// Waits until what was sent at that moment arrives.
    fn arrive(&self, sent: Instant) {
        std::thread::sleep((sent + self.latency).saturating_duration_since(Instant::now()));
        let mut parted = self.parted.lock().unwrap();
        while *parted {
            parted = self.mended.wait(parted).unwrap();
        }
    }

    /// One direction: reading goes on while what was read is on its way.
    fn pass(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let _ = (from.set_nodelay(true), to.set_nodelay(true));
        let (mut from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (sender, under_way) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if sender
                    .send((Instant::now(), buffer[..read].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
        let weather = Arc::clone(self);
        std::thread::spawn(move || weather.deliver(&under_way, to));
    }

    fn deliver(&self, under_way: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
        for (sent, bytes) in under_way {
            self.arrive(sent);
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
