//! What connections have carried, for who keeps accounts.

use dataplane::flow::{FiveTuple, FlowRef};

use super::connection::Connection;
use super::{Dir, Plane, Tracker};
use crate::netlink::conntrack::ConntrackEntry;

/// What one direction has carried past the kernel on one path, since it is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Bytes of those, L2 included.
    pub bytes: u64,
    /// How many of each packet's bytes are its L2 header.
    pub header: u16,
}

/// What there is to account of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectionAccount {
    /// conntrack's tuple.
    pub tuple: FiveTuple,
    /// By workers, and by NICs.
    pub carried: [Carried; 2],
    /// When its last packet flew: milliseconds since start, wrapping; 0: none did.
    pub last_seen: u32,
    /// Ingress and egress port, if it was ever proved.
    pub ports: Option<(u16, u16)>,
}

/// What there is to account of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its place in the tracker: no other connection's, until it has been [closed](Plane::closed).
    pub index: u32,
    /// conntrack's id.
    pub id: u32,
    /// When it was first seen: milliseconds since start, wrapping.
    pub born: u32,
    /// The original direction.
    pub orig: DirectionAccount,
    /// The reply direction.
    pub reply: DirectionAccount,
}

impl Tracker {
    /// The account of the connection with this index, if there is one that is in the table.
    pub fn account(&self, index: u32, plane: &impl Plane) -> Option<Account> {
        account(index, self.connections.get(index)?, plane)
    }

    /// One more than the highest index of a connection.
    pub const fn span(&self) -> usize {
        self.connections.span()
    }

    /// Whether a connection begins or ends at this host.
    pub fn is_local(&self, entry: &ConntrackEntry) -> bool {
        self.ends_here(&entry.orig, &entry.reply)
    }
}

fn account(index: u32, connection: &Connection, plane: &impl Plane) -> Option<Account> {
    let flows = connection.flows?;
    let direction = |dir: Dir| {
        let flow: FlowRef = flows[dir as usize];
        let proved = connection.directions[dir as usize].ever_proved;
        Some(DirectionAccount {
            tuple: plane.key(flow)?.tuple(),
            carried: plane.carried(flow),
            last_seen: plane.counters(flow).last_seen,
            ports: if proved { plane.ports(flow) } else { None },
        })
    };
    let Connection { id, born, .. } = *connection;
    Some(Account { index, id, born, orig: direction(Dir::Orig)?, reply: direction(Dir::Reply)? })
}

#[cfg(test)]
mod tests {
    use dataplane::flow::UDP;

    use crate::netlink::conntrack::{ConntrackEntry, Status};
    use crate::tracker::Tracker;
    use crate::tracker::testing::{Rig, flying, masqueraded};

    /// Whatever takes a connection out of the table, what it carried is told once, before the table forgets it.
    #[test]
    fn who_leaves_is_accounted_for() {
        let destroy = |rig: &mut Rig, entry: &ConntrackEntry| {
            rig.tracker.destroyed(rig.now, entry, &mut rig.model);
        };
        let refuse = |rig: &mut Rig, entry: &ConntrackEntry| {
            rig.event(&ConntrackEntry { status: entry.status | Status::DYING, ..*entry });
        };
        let miss = |rig: &mut Rig, _: &ConntrackEntry| {
            rig.tracker.dump_started();
            rig.tracker.dump_finished(&mut rig.model);
        };
        let become_local = |rig: &mut Rig, entry: &ConntrackEntry| {
            rig.tracker.set_local_addresses(rig.now, [entry.orig.src], &mut rig.model);
        };
        let replace = |rig: &mut Rig, entry: &ConntrackEntry| rig.event(&ConntrackEntry { id: 8, ..*entry });
        type End = fn(&mut Rig, &ConntrackEntry);
        let ways: [(&str, End); 5] = [
            ("destroyed", destroy),
            ("refused", refuse),
            ("missing", miss),
            ("local", become_local),
            ("replaced", replace),
        ];
        for (way, leave) in ways {
            let (mut rig, entry) = flying(UDP);
            rig.model.closed = Some(Vec::new());
            rig.model.fly(entry.orig, rig.now);
            rig.model.fly(entry.orig, rig.now);
            rig.model.fly(entry.reply, rig.now);
            leave(&mut rig, &entry);
            // Its end is told again, as the kernel does.
            rig.tracker.destroyed(rig.now, &entry, &mut rig.model);
            let closed = rig.model.closed.take().expect("what was told");
            let [account] = closed.as_slice() else { panic!("{way}: {closed:?}") };
            assert_eq!(
                (account.id, account.orig.tuple, account.reply.tuple),
                (7, entry.orig, entry.reply),
                "{way}"
            );
            assert_eq!(account.orig.carried.map(|path| path.packets), [2, 0], "{way}");
            assert_eq!(account.reply.carried.map(|path| path.packets), [1, 0], "{way}");
            assert_eq!((account.orig.ports, account.born), (Some((0, 1)), 5000), "{way}");
        }
    }

    #[test]
    fn who_stays_can_be_asked_for() {
        let (mut rig, entry) = flying(UDP);
        rig.model.fly(entry.orig, rig.now);
        assert_eq!(rig.tracker.span(), 1);
        let account = rig.tracker.account(0, &rig.model).expect("an account");
        assert_eq!((account.index, account.orig.carried[0].packets), (0, 1));
        assert_eq!(u64::from(account.orig.last_seen), rig.now);
        rig.tracker.destroyed(rig.now, &entry, &mut rig.model);
        assert_eq!(rig.tracker.account(0, &rig.model), None);
        let tracker: &Tracker = &rig.tracker;
        assert!(!tracker.is_local(&masqueraded(UDP, 1)));
    }
}
