//! The transactions: objects by nftnl, and the two attributes that it has no words for.

use std::ffi::CStr;

use nftnl::expr::{Bitwise, Cmp, CmpOp, Conntrack, States, Verdict};
use nftnl::{Batch, Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::libc;

use crate::netlink::message::{Messages, Writer};
use crate::ruleset::{CHAIN, COMMENT, PRIORITY, TABLE};

/// `NFNL_MSG_BATCH_BEGIN`, and the attribute by which it holds for one generation alone.
const BATCH_BEGIN: u16 = libc::NLMSG_MIN_TYPE as u16;
const NFNL_BATCH_GENID: u16 = 1;
const NEW_TABLE: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWTABLE as u16;
const NFTA_TABLE_USERDATA: u16 = 6;

/// The table with all that is in it; `replace`: in place of one that is there.
pub(super) fn installation(generation: u32, replace: bool) -> Vec<u8> {
    let table = Table::new(TABLE, ProtoFamily::Inet);
    let mut chain = Chain::new(CHAIN, &table);
    chain.set_hook(Hook::Forward, PRIORITY);
    chain.set_type(ChainType::Filter);
    chain.set_policy(Policy::Accept);
    let mut rule = Rule::new(&chain);
    rule.add_expr(&Conntrack::State);
    rule.add_expr(&Bitwise::new((States::ESTABLISHED | States::RELATED).bits(), 0_u32));
    rule.add_expr(&Cmp::new(CmpOp::Neq, 0_u32));
    rule.add_expr(&Verdict::Accept);
    let mut batch = Batch::new();
    if replace {
        batch.add(&table, MsgType::Del);
    }
    batch.add(&table, MsgType::Add);
    batch.add(&chain, MsgType::Add);
    batch.add(&rule, MsgType::Add);
    bytes(batch, generation)
}

/// The table goes, with all that is in it.
pub(super) fn removal(generation: u32) -> Vec<u8> {
    let mut batch = Batch::new();
    batch.add(&Table::new(TABLE, ProtoFamily::Inet), MsgType::Del);
    bytes(batch, generation)
}

fn bytes(batch: Batch, generation: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    for message in batch.finalize().iter().flat_map(Messages::new) {
        let copy = writer.message(message.kind, message.flags.into(), message.sequence);
        writer.raw(message.payload);
        match message.kind {
            BATCH_BEGIN => writer.attribute(NFNL_BATCH_GENID, &generation.to_be_bytes()),
            NEW_TABLE => writer.attribute(NFTA_TABLE_USERDATA, &comment(COMMENT)),
            _ => {}
        }
        writer.end_message(copy);
    }
    writer.into_bytes()
}

/// User data as nft has them: type (NFTNL_UDATA_TABLE_COMMENT is 0), length, value.
fn comment(text: &CStr) -> Vec<u8> {
    let value = text.to_bytes_with_nul();
    [0, value.len() as u8].into_iter().chain(value.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::{Attributes, NFGEN};

    /// An attribute by its kind.
    type Attribute = (u16, Vec<u8>);

    /// Kind, and attributes without those in them.
    fn messages(transaction: &[u8]) -> Vec<(u16, Vec<Attribute>)> {
        let mut messages = Messages::new(transaction);
        let found = messages
            .by_ref()
            .map(|message| {
                assert!(message.has(libc::NLM_F_REQUEST), "{message:?}");
                let attributes = message.payload.get(NFGEN..).expect("a header");
                let attributes = Attributes(attributes).map(|(kind, value)| (kind, value.to_vec()));
                (message.kind, attributes.collect())
            })
            .collect();
        assert!(messages.rest().is_empty());
        found
    }

    fn kinds(transaction: &[u8]) -> Vec<u16> {
        messages(transaction).into_iter().map(|(kind, _)| kind).collect()
    }

    /// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, and nf_tables' own.
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    const DELETE_TABLE: u16 = 0xa02;

    #[test]
    fn one_transaction_with_the_generation_and_the_comment() {
        let transaction = installation(0x0102_0304, false);
        assert_eq!(kinds(&transaction), [BEGIN, 0xa00, 0xa03, 0xa06, END]);
        let messages = messages(&transaction);
        assert_eq!(messages[0].1, [(NFNL_BATCH_GENID, vec![1, 2, 3, 4])]);
        let (kind, data) = messages[1].1.last().expect("attributes");
        assert_eq!(*kind, NFTA_TABLE_USERDATA);
        assert_eq!(usize::from(data[1]), data.len() - 2);
        assert_eq!(data[2..], *COMMENT.to_bytes_with_nul());
    }

    #[test]
    fn what_is_replaced_goes_first_in_the_same_transaction() {
        assert_eq!(kinds(&installation(1, true)), [BEGIN, DELETE_TABLE, 0xa00, 0xa03, 0xa06, END]);
        assert_eq!(kinds(&removal(7)), [BEGIN, DELETE_TABLE, END]);
        assert_eq!(messages(&removal(7))[0].1, [(NFNL_BATCH_GENID, vec![0, 0, 0, 7])]);
    }

    #[test]
    fn each_command_asks_for_an_acknowledgement() {
        for message in Messages::new(&installation(1, true)) {
            let command = message.kind >> 8 != 0;
            assert!(!command || message.has(libc::NLM_F_ACK), "{message:?}");
        }
    }
}
