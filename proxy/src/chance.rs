//! Where the data plane draws lots: endpoints, destinations, pauses, shares. The thread's generator, which a simulation
//! seeds so that it happens again as it did.

#[cfg(not(test))]
pub(crate) use rand::rng;

#[cfg(test)]
pub(crate) use seeded::{rng, seed};

#[cfg(test)]
mod seeded {
    use std::cell::RefCell;

    use rand::{RngCore, SeedableRng as _, rngs::StdRng};

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Has this thread draw the same lots from now on as ever after that seed.
    pub(crate) fn seed(seed: u64) {
        SEEDED.set(Some(StdRng::seed_from_u64(seed)));
    }

    /// This thread's generator.
    pub(crate) fn rng() -> Lots {
        Lots
    }

    #[derive(Debug)]
    pub(crate) struct Lots;

    impl Lots {
        fn with<T>(draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
            SEEDED.with_borrow_mut(|seeded| match seeded {
                Some(seeded) => draw(seeded),
                None => draw(&mut rand::rng()),
            })
        }
    }

    impl RngCore for Lots {
        fn next_u32(&mut self) -> u32 {
            Self::with(|rng| rng.next_u32())
        }

        fn next_u64(&mut self) -> u64 {
            Self::with(|rng| rng.next_u64())
        }

        fn fill_bytes(&mut self, to: &mut [u8]) {
            Self::with(|rng| rng.fill_bytes(to));
        }
    }
}
