use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::flow::{FiveTuple, TCP, UDP};
use netflow_parser::variable_versions::ipfix::{FlowSetBody, IPFix, IPFixFieldPair};
use netflow_parser::{NetflowPacket, NetflowParser};
use proptest::prelude::*;

use super::*;

/// The fields of a record by their names, as a decoder that is not ours has them.
type Fields = HashMap<String, Vec<u8>>;

/// What a message says.
struct Decoded {
    sequence: u32,
    export_time: u32,
    domain: u32,
    templates: usize,
    records: Vec<Fields>,
    statistics: Vec<Fields>,
}

/// A collector that is not ours.
#[derive(Default)]
struct Collector {
    parser: NetflowParser,
}

fn fields(record: &[IPFixFieldPair]) -> Fields {
    let pair = |(field, value): &IPFixFieldPair| {
        let name = format!("{field:?}");
        let name = name.rsplit('(').next().unwrap_or_default().trim_end_matches(')').to_lowercase();
        let mut bytes = Vec::new();
        value.write_be_bytes(&mut bytes).expect("bytes");
        (name, bytes)
    };
    record.iter().map(pair).collect()
}

impl Collector {
    fn decode(&mut self, message: &[u8]) -> Decoded {
        let result = self.parser.parse_bytes(message);
        assert!(result.error.is_none(), "{:?}", result.error);
        let [NetflowPacket::IPFix(IPFix { header, flowsets })] = result.packets.as_slice() else {
            panic!("one message: {result:?}")
        };
        let mut decoded = Decoded {
            sequence: header.sequence_number,
            export_time: header.export_time,
            domain: header.observation_domain_id,
            templates: 0,
            records: Vec::new(),
            statistics: Vec::new(),
        };
        assert_eq!(usize::from(header.length), message.len());
        for set in flowsets {
            match &set.body {
                FlowSetBody::Template(_) | FlowSetBody::OptionsTemplate(_) => decoded.templates += 1,
                FlowSetBody::Templates(list) => decoded.templates += list.len(),
                FlowSetBody::Data(data) => {
                    assert_eq!(data.padding, [0; 0]);
                    decoded.records.extend(data.fields.iter().map(|record| fields(record)));
                }
                FlowSetBody::OptionsData(data) => {
                    decoded.statistics.extend(data.fields.iter().map(|record| fields(record)));
                }
                other => panic!("{other:?}"),
            }
        }
        decoded
    }
}

fn number(fields: &Fields, name: &str) -> u64 {
    let bytes = fields.get(name).unwrap_or_else(|| panic!("no {name} in {fields:?}"));
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn address(fields: &Fields, name: &str) -> IpAddr {
    let bytes = fields.get(name).unwrap_or_else(|| panic!("no {name} in {fields:?}"));
    match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).expect("four")).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).expect("sixteen")).into(),
    }
}

fn tuples(fields: &Fields) -> [FiveTuple; 2] {
    let family = if fields.contains_key("sourceipv4address") { "ipv4address" } else { "ipv6address" };
    let tuple = |nat: &str, napt: &str| FiveTuple {
        proto: number(fields, "protocolidentifier") as u8,
        src: address(fields, &format!("{nat}source{family}")),
        dst: address(fields, &format!("{nat}destination{family}")),
        sport: number(fields, &format!("{napt}sourcetransportport")) as u16,
        dport: number(fields, &format!("{napt}destinationtransportport")) as u16,
    };
    [tuple("", ""), tuple("postnat", "postnapt")]
}

/// What another decoder makes of a flow record.
fn flow(fields: &Fields) -> FlowRecord {
    let reason = REASONS.into_iter().find(|r| *r as u64 == number(fields, "flowendreason"));
    let [before, after] = tuples(fields);
    assert_eq!(number(fields, "biflowdirection"), 1);
    FlowRecord {
        id: number(fields, "flowid") as u32,
        before,
        after,
        forward: Count {
            packets: number(fields, "packetdeltacount"),
            octets: number(fields, "octetdeltacount"),
        },
        reverse: Count {
            packets: number(fields, "reversepacketdeltacount"),
            octets: number(fields, "reverseoctetdeltacount"),
        },
        start: number(fields, "flowstartmilliseconds"),
        end: number(fields, "flowendmilliseconds"),
        reason: reason.expect("a reason"),
        ingress: number(fields, "ingressinterface") as u32,
        egress: number(fields, "egressinterface") as u32,
    }
}

/// What another decoder makes of a NAT event.
fn session(fields: &Fields) -> NatSession {
    let event =
        [NatEvent::Create, NatEvent::Delete].into_iter().find(|e| *e as u64 == number(fields, "natevent"));
    let [before, after] = tuples(fields);
    NatSession {
        id: number(fields, "flowid") as u32,
        before,
        after,
        event: event.expect("an event"),
        at: number(fields, "observationtimemilliseconds"),
    }
}

const REASONS: [EndReason; 4] =
    [EndReason::IdleTimeout, EndReason::ActiveTimeout, EndReason::EndOfFlow, EndReason::ForcedEnd];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Record {
    Flow(FlowRecord),
    Nat(NatSession),
}

fn tuple_pairs(v6: bool) -> BoxedStrategy<[FiveTuple; 2]> {
    let address = move || match v6 {
        true => any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()).boxed(),
        false => any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()).boxed(),
    };
    let proto = prop_oneof![Just(TCP), Just(UDP)];
    let addresses: [BoxedStrategy<IpAddr>; 4] = std::array::from_fn(|_| address());
    (proto, addresses, any::<[u16; 4]>())
        .prop_map(|(proto, [a, b, c, d], [e, f, g, h])| {
            let tuple = |(src, dst), (sport, dport)| FiveTuple { proto, src, dst, sport, dport };
            [tuple((a, b), (e, f)), tuple((c, d), (g, h))]
        })
        .boxed()
}

fn counts() -> impl Strategy<Value = Count> {
    any::<(u64, u64)>().prop_map(|(packets, octets)| Count { packets, octets })
}

prop_compose! {
    fn flows()(
        [before, after] in any::<bool>().prop_flat_map(tuple_pairs), id in any::<u32>(),
        (forward, reverse) in (counts(), counts()), (start, end) in any::<(u64, u64)>(),
        reason in prop::sample::select(REASONS.to_vec()), (ingress, egress) in any::<(u32, u32)>(),
    ) -> Record {
        // A decoder may take times for signed, or for seconds and nanoseconds.
        let (start, end) = (start >> 8, end >> 8);
        Record::Flow(FlowRecord { id, before, after, forward, reverse, start, end, reason, ingress, egress })
    }
}

prop_compose! {
    fn sessions()(
        [before, after] in tuple_pairs(false), id in any::<u32>(), at in any::<u64>(), create in any::<bool>(),
    ) -> Record {
        let event = if create { NatEvent::Create } else { NatEvent::Delete };
        Record::Nat(NatSession { id, before, after, event, at: at >> 8 })
    }
}

fn config(message_size: u16) -> ExporterConfig {
    ExporterConfig { domain: 7, process: 42, message_size, template_interval: 60_000, nat_events: true }
}

fn add(exporter: &mut Exporter, moment: Moment, record: &Record) {
    match record {
        Record::Flow(record) => exporter.flow(moment, record),
        Record::Nat(session) => exporter.nat(moment, session),
    }
}

fn take(exporter: &mut Exporter) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(message) = exporter.next() {
        messages.push(message.to_owned());
        exporter.sent(0);
    }
    messages
}

const fn at(now: u64) -> Moment {
    Moment { now, unix_ms: 1_700_000_000_000 + now }
}

proptest! {
    /// Whatever is told, at whatever times: a decoder that is not ours reads the same, in order; no message is longer than
    /// allowed; and the sequence is that of the data records.
    #[test]
    fn what_is_told_another_decoder_reads(
        records in prop::collection::vec((prop_oneof![3 => flows(), 1 => sessions()], prop_oneof![20 => Just(0), 1 => 0..30_000_u64]), 0..120),
        size in 512..1500_u16,
    ) {
        let mut exporter = Exporter::new(config(size));
        let mut now = 0;
        for (record, later) in &records {
            now += later;
            exporter.advance(at(now));
            add(&mut exporter, at(now), record);
        }
        prop_assert_eq!(exporter.waiting(), records.len() as u64);
        exporter.close(at(now));
        let mut collector = Collector::default();
        let (mut sequence, mut read, mut templates) = (0, Vec::new(), 0);
        for message in take(&mut exporter) {
            prop_assert!(message.len() <= usize::from(size), "{} bytes", message.len());
            let decoded = collector.decode(&message);
            prop_assert_eq!((decoded.sequence, decoded.domain), (sequence, 7));
            prop_assert!(u64::from(decoded.export_time) >= 1_700_000_000);
            sequence += (decoded.records.len() + decoded.statistics.len()) as u32;
            templates += decoded.templates;
            read.extend(decoded.records.iter().map(|fields| match fields.contains_key("natevent") {
                true => Record::Nat(session(fields)),
                false => Record::Flow(flow(fields)),
            }));
        }
        let told: Vec<Record> = records.into_iter().map(|(record, _)| record).collect();
        prop_assert_eq!(read, told);
        // The last could be up to a minute ago.
        prop_assert!(templates as u64 >= 4 * (now / 90_000), "{} in {} ms", templates, now);
        prop_assert_eq!((exporter.waiting(), exporter.totals().lost), (0, 0));
    }
}

fn any_flow() -> FlowRecord {
    let before = FiveTuple {
        proto: UDP,
        src: Ipv4Addr::new(192, 168, 1, 10).into(),
        dst: Ipv4Addr::new(198, 51, 100, 10).into(),
        sport: 4000,
        dport: 53,
    };
    FlowRecord {
        id: 5,
        before,
        after: FiveTuple { src: Ipv4Addr::new(198, 51, 100, 1).into(), ..before },
        forward: Count { packets: 1, octets: 60 },
        reverse: Count { packets: 1, octets: 100 },
        start: 1,
        end: 2,
        reason: EndReason::IdleTimeout,
        ingress: 3,
        egress: 4,
    }
}

#[test]
fn a_message_waits_a_second_for_more() {
    let mut exporter = Exporter::new(config(1400));
    exporter.advance(at(0));
    assert_eq!(take(&mut exporter).len(), 1, "the templates");
    exporter.flow(at(10), &any_flow());
    exporter.advance(at(1009));
    assert!(exporter.next().is_none());
    exporter.advance(at(1010));
    assert_eq!(take(&mut exporter).len(), 1);
    assert_eq!(exporter.totals().records, 1);
}

#[test]
fn templates_and_statistics_come_again() {
    let mut exporter = Exporter::new(config(1400));
    let mut collector = Collector::default();
    exporter.flow(at(0), &any_flow());
    exporter.close(at(0));
    take(&mut exporter);
    exporter.advance(at(59_999));
    assert!(exporter.next().is_none());
    exporter.advance(at(60_000));
    let messages = take(&mut exporter);
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    // A collector that begins here.
    let decoded = collector.decode(message);
    assert_eq!(
        (decoded.templates, decoded.sequence),
        (4, 2),
        "the record before, and the statistics before that"
    );
    let [statistics] = decoded.statistics.as_slice() else { panic!("statistics") };
    assert_eq!(number(statistics, "exportingprocessid"), 42);
    assert_eq!(number(statistics, "exportedflowrecordtotalcount"), 1);
    assert_eq!(number(statistics, "exportedmessagetotalcount"), 2);
    assert_eq!(number(statistics, "notsentflowtotalcount"), 0);
    // What is being filled comes after them.
    exporter.flow(at(60_000), &any_flow());
    exporter.send_templates();
    exporter.advance(at(60_001));
    exporter.close(at(60_001));
    let messages = take(&mut exporter);
    let [templates, record] = messages.as_slice() else { panic!("{messages:?}") };
    let (templates, record) = (collector.decode(templates), collector.decode(record));
    assert_eq!((templates.templates, templates.sequence), (4, 3));
    assert_eq!((record.records.len(), record.sequence), (1, 4));
}

#[test]
fn without_nat_events_none_is_sent() {
    let mut exporter = Exporter::new(ExporterConfig { nat_events: false, ..config(1400) });
    let record = any_flow();
    let (before, after, event) = (record.before, record.after, NatEvent::Create);
    exporter.nat(at(0), &NatSession { id: 1, before, after, event, at: 0 });
    exporter.advance(at(0));
    exporter.close(at(0));
    let messages = take(&mut exporter);
    assert_eq!(messages.len(), 1);
    assert_eq!(Collector::default().decode(&messages[0]).templates, 3);
}

/// A collector that takes nothing: what waits is bounded, and what is lost is counted and missing from no sequence.
#[test]
fn what_finds_no_room_is_counted() {
    let mut exporter = Exporter::new(config(512));
    let record = any_flow();
    let told = 10 * QUEUE as u64;
    for _ in 0..told {
        exporter.flow(at(0), &record);
    }
    exporter.close(at(0));
    let lost = exporter.totals().lost;
    assert_eq!(exporter.waiting() + lost, told);
    assert!(lost > 0 && lost < told);
    let messages = take(&mut exporter);
    assert!(messages.len() <= QUEUE + 2, "{}", messages.len());
    let (mut collector, mut sequence) = (Collector::default(), 0);
    for message in messages {
        let decoded = collector.decode(&message);
        assert_eq!(decoded.sequence, sequence);
        sequence += (decoded.records.len() + decoded.statistics.len()) as u32;
    }
    assert_eq!(exporter.totals().records, told - lost);
}

#[test]
fn what_was_refused_or_can_never_be_sent_is_lost() {
    let mut exporter = Exporter::new(config(1400));
    exporter.flow(at(0), &any_flow());
    exporter.close(at(0));
    exporter.sent(0);
    exporter.sent(0);
    // Templates right behind a record, of which the word may be too.
    exporter.send_templates();
    exporter.advance(at(1));
    exporter.sent(1);
    exporter.refused();
    exporter.refused();
    assert_eq!((exporter.totals().records, exporter.totals().lost), (0, 1));
    // What was sent long before is nobody's word.
    let mut others = Exporter::new(config(1400));
    for now in [0, 5000] {
        others.flow(at(now), &any_flow());
        others.close(at(now));
        while others.next().is_some() {
            others.sent(now);
        }
    }
    others.refused();
    assert_eq!((others.totals().records, others.totals().lost), (1, 1));
    exporter.flow(at(0), &any_flow());
    exporter.close(at(0));
    exporter.failed();
    assert_eq!(exporter.totals().lost, 2);
    exporter.flow(at(0), &any_flow());
    exporter.give_up(at(0));
    assert_eq!((exporter.totals().lost, exporter.waiting()), (3, 0));
    assert!(exporter.next().is_none());
}

/// docs/ipfix.md names every field of every template by its number.
#[test]
fn every_field_is_documented_and_no_other() {
    let docs = include_str!("../../../docs/ipfix.md");
    let mut documented: HashMap<u16, Vec<(u16, bool)>> = HashMap::new();
    let mut template = 0;
    for line in docs.lines() {
        if let Some(heading) = line.strip_prefix("### Template ") {
            template =
                heading.split([' ', ',', ':']).next().and_then(|id| id.parse().ok()).expect("a number");
            continue;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, id, name, ..] = cells.as_slice() else { continue };
        let (id, reverse) = match id.strip_prefix("29305/") {
            Some(id) => (id, true),
            None => (*id, false),
        };
        if let (Ok(id), true) = (id.parse(), name.starts_with('`') && template != 0) {
            documented.entry(template).or_default().push((id, reverse));
        }
    }
    for template in Template::ALL {
        // IPv6 is IPv4 with other addresses: they share a table.
        if template.id == FLOW6.id {
            continue;
        }
        let fields: Vec<(u16, bool)> =
            template.fields.iter().map(|field| (field.id, field.enterprise.is_some())).collect();
        assert_eq!(documented.get(&template.id), Some(&fields), "template {}", template.id);
    }
    for field in FLOW6.fields.iter().filter(|field| !FLOW4.fields.contains(field)) {
        assert!(docs.contains(&format!(" {} `", field.id)), "{field:?}");
    }
}
