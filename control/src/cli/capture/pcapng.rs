//! A capture as pcapng: an interface for each port and point; as comments what became of a packet, and its number, by which
//! it is found again at other points.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use dataplane::capture::{Origin, Record, What};
use dataplane::packet::DropReason;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};

use super::ByPoint;
use crate::cli::args::Point;
use crate::words::{dropped_why, punted_why};

/// Nanoseconds, as a power of ten.
const RESOLUTION: u8 = 9;
/// `epb_flags`: it came in.
const INBOUND: u32 = 1;
/// `epb_flags`: it goes out.
const OUTBOUND: u32 = 2;
/// See the module.
pub(super) struct CaptureFile<W: Write> {
    out: Rc<RefCell<W>>,
    writer: PcapNgWriter<Tail<W>>,
    interfaces: HashMap<(u16, u8), Interface>,
    epoch_ns: u64,
    points: ByPoint,
    lost: u64,
}

/// An interface of the file.
#[derive(Clone, Copy, Debug)]
struct Interface {
    number: u32,
    packets: u64,
    lost: u64,
}

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// A packet that is in the file now.
    Packet,
    /// Something else.
    Other,
}

/// A writer that can be flushed though another one writes to it.
struct Tail<W: Write>(Rc<RefCell<W>>);

impl<W: Write> Write for Tail<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

impl<W: Write> CaptureFile<W> {
    /// Writes what comes first: who captures, and the interfaces, of these ports by their numbers.
    pub(super) fn begin(
        out: W,
        ports: &[(u16, &str)],
        points: &[Point],
        bytes: u16,
        filter: &str,
        epoch_ns: u64,
    ) -> io::Result<Self> {
        let out = Rc::new(RefCell::new(out));
        let application = concat!("flyover ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let mut writer = PcapNgWriter::with_section_header(Tail(Rc::clone(&out)), section).map_err(told)?;
        let mut interfaces = HashMap::new();
        for ((port, name), point) in
            ports.iter().flat_map(|port| points.iter().map(move |point| (port, point)))
        {
            let mut options = vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(format!("{name} {}", point.name()))),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(format!("{} {name}", point.words()))),
                InterfaceDescriptionOption::IfTsResol(RESOLUTION),
            ];
            if !filter.is_empty() {
                // A leading 0 says that it is libpcap's language.
                let text = std::iter::once(0).chain(filter.bytes()).collect();
                options.push(InterfaceDescriptionOption::IfFilter(Cow::Owned(text)));
            }
            let linktype = DataLink::ETHERNET;
            let block = InterfaceDescriptionBlock { linktype, snaplen: bytes.into(), options };
            writer.write_pcapng_block(block).map_err(told)?;
            let number = interfaces.len() as u32;
            interfaces.insert((*port, point.kind()), Interface { number, packets: 0, lost: 0 });
        }
        Ok(Self { out, writer, interfaces, epoch_ns, points: ByPoint::default(), lost: 0 })
    }

    /// Takes in a record.
    pub(super) fn note(&mut self, record: &Record<'_>) -> io::Result<Noted> {
        if let What::Lost { kind, records } = record.what {
            if let Some(interface) = self.interfaces.get_mut(&(record.port, kind)) {
                interface.lost += u64::from(records);
                self.lost += u64::from(records);
            }
            return Ok(Noted::Other);
        }
        let Some(interface) = self.interfaces.get_mut(&(record.port, record.what.kind())) else {
            return Ok(Noted::Other);
        };
        interface.packets += 1;
        let (flags, comment) = match record.what {
            What::Sent(Origin::Kernel) => (OUTBOUND, Some("from the kernel".to_owned())),
            What::Sent(Origin::Wire) => (OUTBOUND, None),
            What::Punted { reason, .. } => {
                (INBOUND, Some(format!("to the kernel: {}: {}", reason.name(), punted_why(reason))))
            }
            What::Dropped(reason) => {
                let flags = if reason == DropReason::TxQueueFull { OUTBOUND } else { INBOUND };
                (flags, Some(format!("dropped: {}: {}", reason.name(), dropped_why(reason))))
            }
            _ => (INBOUND, None),
        };
        // 0: it was not noted when it came.
        let number =
            (record.packet != 0).then(|| format!("packet {} of worker {}", record.packet, record.worker));
        let comments = comment.into_iter().chain(number);
        let comments = comments.map(|comment| EnhancedPacketOption::Comment(Cow::Owned(comment)));
        let options = std::iter::once(EnhancedPacketOption::Flags(flags)).chain(comments).collect();
        let block = EnhancedPacketBlock {
            interface_id: interface.number,
            timestamp: Duration::from_nanos(self.epoch_ns.saturating_add(record.nanos)),
            original_len: record.length,
            data: Cow::Borrowed(record.bytes),
            options,
        };
        self.writer.write_pcapng_block(block).map_err(told)?;
        let point = match record.what {
            What::Sent(_) => &mut self.points.tx,
            What::Punted { .. } => &mut self.points.punt,
            What::Dropped(_) => &mut self.points.drop,
            _ => &mut self.points.rx,
        };
        *point += 1;
        Ok(Noted::Packet)
    }

    /// Packets by point, and those that were lost.
    pub(super) const fn counts(&self) -> (ByPoint, u64) {
        (self.points, self.lost)
    }

    /// Has those who read along see all.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.out.borrow_mut().flush()
    }

    /// Writes what comes last: how many packets there were by each interface, and how many were lost.
    pub(super) fn finish(&mut self, now: Duration) -> io::Result<()> {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut interfaces: Vec<Interface> = self.interfaces.values().copied().collect();
        interfaces.sort_by_key(|interface| interface.number);
        for Interface { number, packets, lost } in interfaces {
            let block = InterfaceStatisticsBlock {
                interface_id: number,
                timestamp: nanos,
                options: vec![
                    InterfaceStatisticsOption::IsbIfRecv(packets + lost),
                    InterfaceStatisticsOption::IsbIfDrop(lost),
                ],
            };
            self.writer.write_pcapng_block(block).map_err(told)?;
        }
        self.flush()
    }
}

impl Point {
    /// Of records.
    const fn kind(self) -> u8 {
        match self {
            Self::Rx => What::RECEIVED,
            Self::Tx => What::SENT,
            Self::Punt => What::PUNTED,
            Self::Drop => What::DROPPED,
        }
    }

    /// Before the port's name.
    const fn words(self) -> &'static str {
        match self {
            Self::Rx => "came in by",
            Self::Tx => "left by",
            Self::Punt => "given to the kernel, of those that came in by",
            Self::Drop => "dropped, at",
        }
    }
}

/// Of all that can go wrong, only writing does.
fn told(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::PuntReason;
    use dataplane::punt::{PuntClass, PuntEvent};
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    const POINTS: [Point; 4] = [Point::Rx, Point::Tx, Point::Punt, Point::Drop];

    fn record(what: What, port: u16, bytes: &[u8]) -> Record<'_> {
        Record { what, port, worker: 1, packet: 7, nanos: 5, length: 100, bytes }
    }

    #[test]
    fn what_is_written_is_read_by_another() {
        let mut bytes = Vec::new();
        let mut file =
            CaptureFile::begin(&mut bytes, &[(0, "wan0"), (1, "lan0")], &POINTS, 64, "udp", 1_000_000_000)
                .expect("a file");
        let punted =
            What::Punted { reason: PuntReason::Ttl, event: PuntEvent::None, class: PuntClass::Transit };
        for what in
            [What::Received, What::Sent(Origin::Kernel), punted, What::Dropped(DropReason::TxQueueFull)]
        {
            assert_eq!(file.note(&record(what, 1, &[1, 2, 3])).expect("written"), Noted::Packet);
        }
        let lost = What::Lost { kind: What::SENT, records: 4 };
        assert_eq!(file.note(&record(lost, 1, &[])).expect("written"), Noted::Other);
        assert_eq!(file.note(&record(What::Fetched, 1, &[])).expect("written"), Noted::Other);
        let (points, lost) = file.counts();
        assert_eq!(([points.rx, points.tx, points.punt, points.drop], lost), ([1; 4], 4));
        file.finish(Duration::from_secs(2)).expect("written");
        drop(file);

        let mut reader = PcapNgReader::new(&bytes[..]).expect("pcapng");
        let (mut names, mut packets, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a block") {
                Block::InterfaceDescription(block) => {
                    assert_eq!((block.linktype, block.snaplen), (DataLink::ETHERNET, 64));
                    names.push(format!("{:?}", block.options));
                }
                Block::EnhancedPacket(block) => packets.push((
                    block.interface_id,
                    block.timestamp,
                    block.original_len,
                    block.data.into_owned(),
                    format!("{:?}", block.options),
                )),
                Block::InterfaceStatistics(block) => statistics.push(block.into_owned().options),
                _ => {}
            }
        }
        assert_eq!(names.len(), 8);
        assert!(names[0].contains("wan0 rx") && names[7].contains("lan0 drop"), "{names:?}");
        let at = Duration::new(1, 5);
        for (nth, (interface, time, length, data, _)) in packets.iter().enumerate() {
            assert_eq!((*interface, *time, *length), (4 + nth as u32, at, 100));
            assert_eq!(data, &[1, 2, 3]);
        }
        let says = |nth: usize, text: &str| packets[nth].4.contains(text);
        assert!(says(0, "Flags(1)") && !says(0, "kernel"), "{packets:?}");
        assert!(says(1, "Flags(2)") && says(1, "from the kernel"), "{packets:?}");
        assert!(says(2, "Flags(1)") && says(2, "to the kernel: ttl: "), "{packets:?}");
        assert!(says(3, "Flags(2)") && says(3, "dropped: tx_queue_full: "), "{packets:?}");
        assert!(packets.iter().all(|packet| packet.4.contains("packet 7 of worker 1")), "{packets:?}");
        let counted = |recv, drop| {
            vec![InterfaceStatisticsOption::IsbIfRecv(recv), InterfaceStatisticsOption::IsbIfDrop(drop)]
        };
        assert_eq!((&statistics[4], &statistics[5]), (&counted(1, 0), &counted(5, 4)));
        assert_eq!(statistics[0], counted(0, 0));
    }
}
