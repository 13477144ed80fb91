//! The end of a world: no more disturbances, everybody is answered, and nothing is left.

use super::plan::{Ask, Event, Fate, Left, Says};
use super::run::{Arrival, Sim};

/// Clients that ask for everything once all disturbances have ended.
const ASKERS: u16 = 40;

impl Sim {
    /// All disturbances end: what was held up goes its way, everybody is answered, the counts are
    /// the model's, and in the end nobody and nothing is left.
    pub fn end(&mut self) {
        self.disturb(&Event::Late(None));
        self.disturb(&Event::Slots(None));
        for core in 0..self.shape.cores {
            self.disturb(&Event::Full(core, false));
            self.disturb(&Event::Deaf(core, false));
            self.disturb(&Event::Stall(core, false));
        }
        self.deliver();
        self.step = u64::MAX / 2;
        self.arrive_due();
        self.deliver();
        self.step(&Event::Pass(5));
        // A mailbox of a few messages is no disturbance that ends.
        self.calm = self.shape.mailbox >= 10_000;
        let last = self.serial;
        for client in 0..self.shape.clients.min(ASKERS) {
            self.ask_everything(client);
        }
        if self.calm {
            let dirty = (0..self.shape.cores).any(|core| self.is_dirty(core));
            for (tag, arrival) in self.arrivals.range(last + 1..) {
                assert!(is_answered(arrival, dirty), "{tag} is not answered: {arrival:?}");
            }
        }
        self.compare();
        self.gather();
        for client in 0..self.shape.clients {
            self.step(&Event::WebClose { client });
        }
        self.act(&Event::Leap(self.shape.ttl.max(360) + 1));
        (0..3).for_each(|_| self.second());
        self.compare();
        let counters = self.world.counters();
        let sum = |cells: &[u64]| cells.iter().sum::<u64>();
        assert_eq!(sum(&counters.seeders) + sum(&counters.leechers), 0);
        assert_eq!(sum(&counters.web_seeders) + sum(&counters.web_leechers), 0);
        assert_eq!((counters.swarms, counters.pending_scrapes), ([0], [0]));
        assert_eq!(counters.web_connections, [0]);
        assert_eq!(counters.messages_sent, counters.messages_received);
        assert_eq!(self.world.messages(), 0);
        self.world.check_invariants();
    }

    fn ask_everything(&mut self, client: u16) {
        let says = Says {
            swarm: client % 5,
            event: 2,
            left: if client.is_multiple_of(2) { Left::Something } else { Left::Nothing },
            num_want: -1,
            port: None,
        };
        let (first, count) = (client % 3, 3);
        let fates = [Fate::default(); 2];
        let asks = [Ask::Announce(says), Ask::Scrape { first, count }];
        // An id of before may have expired on the way.
        self.udp[usize::from(client)].forget();
        for ask in &asks {
            self.step(&Event::Udp { client, ask: ask.clone(), fates });
            self.step(&Event::Pass(0));
        }
        self.step(&Event::Http { client, asks: asks.to_vec(), piece: 9, reset: None });
        self.step(&Event::WebOpen { client });
        self.step(&Event::WebSay { client, says, offers: 5 });
        self.step(&Event::WebScrape { client, first, count });
        self.step(&Event::WebAnswer { client, nth: 0, bend: 0 });
    }
}

/// Whether there is nothing more to come; somebody may have had to go if `dirty`.
fn is_answered(arrival: &Arrival, dirty: bool) -> bool {
    match arrival {
        Arrival::Udp(arrival) => arrival.answered || !arrival.is_request(),
        Arrival::Http(arrival) => arrival.answered,
        Arrival::WebAnnounce(arrival) => arrival.is_complete(dirty),
        Arrival::WebAnswer(arrival) => arrival.is_complete(),
        Arrival::WebScrape { replied, .. } => *replied,
    }
}
