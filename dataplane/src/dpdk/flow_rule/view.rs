//! A rule as its receiver sees it: the C structures, read one by one.

use std::marker::PhantomData;
use std::slice;

use dpdk_sys as sys;

use super::rule::attr_of;
use super::{ActionKind, FlowAttr, ItemKind};

/// An item, its contents as bytes of its kind's C structure. Of kinds that are not known there are no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawItem<'a> {
    /// What it matches.
    pub kind: ItemKind,
    /// Values.
    pub spec: Option<&'a [u8]>,
    /// Upper ends of ranges.
    pub last: Option<&'a [u8]>,
    /// Bits that matter.
    pub mask: Option<&'a [u8]>,
}

/// An action, its configuration as bytes of its kind's C structure. Of kinds that are not known there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAction<'a> {
    /// What it does.
    pub kind: ActionKind,
    /// The configuration; of [`RSS`](ActionKind::RSS) the queues alone are told.
    pub conf: Option<&'a [u8]>,
    /// The queues of an [`RSS`](ActionKind::RSS).
    pub queues: Vec<u16>,
}

/// A rule's attributes, items and actions up to their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleView<'a> {
    attr: FlowAttr,
    reserved: bool,
    items: Vec<RawItem<'a>>,
    actions: Vec<RawAction<'a>>,
    ends: [bool; 2],
    rule: PhantomData<&'a ()>,
}

impl<'a> RuleView<'a> {
    /// Reads the C structures.
    ///
    /// # Safety
    /// What items and actions point to is NULL, or as many initialised bytes as the kind's C structure has, for as long
    /// as `'a`; an RSS action's configuration points to as many queues as it says.
    pub(super) unsafe fn read(
        attr: &sys::rte_flow_attr,
        items: &[sys::rte_flow_item],
        actions: &[sys::rte_flow_action],
    ) -> Self {
        let items_end = items.iter().position(|item| item.type_ == ItemKind::END.raw());
        let actions_end = actions.iter().position(|action| action.type_ == ActionKind::END.raw());
        let items = items.get(..items_end.unwrap_or(items.len())).unwrap_or_default();
        let actions = actions.get(..actions_end.unwrap_or(actions.len())).unwrap_or_default();
        let item = |item: &sys::rte_flow_item| {
            let kind = ItemKind::from_raw(item.type_);
            // SAFETY: as the caller says.
            let content = |at| unsafe { content(at, kind.size()) };
            RawItem { kind, spec: content(item.spec), last: content(item.last), mask: content(item.mask) }
        };
        let action = |action: &sys::rte_flow_action| {
            let kind = ActionKind::from_raw(action.type_);
            if kind == ActionKind::RSS {
                // SAFETY: as the caller says.
                let queues = unsafe { queues(action.conf.cast()) };
                return RawAction { kind, conf: None, queues };
            }
            // SAFETY: as the caller says.
            let conf = unsafe { content(action.conf, kind.size()) };
            RawAction { kind, conf, queues: Vec::new() }
        };
        Self {
            attr: attr_of(attr),
            reserved: attr.reserved() != 0,
            items: items.iter().map(item).collect(),
            actions: actions.iter().map(action).collect(),
            ends: [items_end.is_some(), actions_end.is_some()],
            rule: PhantomData,
        }
    }

    /// The attributes.
    pub fn attr(&self) -> FlowAttr {
        self.attr
    }

    /// Whether a bit of the attributes is set that has no meaning.
    pub fn has_reserved_bits(&self) -> bool {
        self.reserved
    }

    /// The items before the end.
    pub fn items(&self) -> &[RawItem<'a>] {
        &self.items
    }

    /// The actions before the end.
    pub fn actions(&self) -> &[RawAction<'a>] {
        &self.actions
    }

    /// Whether the items, and the actions, have an end.
    pub fn ends(&self) -> [bool; 2] {
        self.ends
    }
}

/// # Safety
/// As [`RuleView::read`] says.
unsafe fn content<'a>(at: *const std::ffi::c_void, size: Option<usize>) -> Option<&'a [u8]> {
    let size = size.filter(|size| *size > 0 && !at.is_null())?;
    // SAFETY: as the caller says.
    Some(unsafe { slice::from_raw_parts(at.cast(), size) })
}

/// # Safety
/// As [`RuleView::read`] says.
unsafe fn queues(conf: *const sys::rte_flow_action_rss) -> Vec<u16> {
    // SAFETY: as the caller says.
    let Some(conf) = (unsafe { conf.as_ref() }) else { return Vec::new() };
    if conf.queue.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(conf.queue, conf.queue_num as usize) }.to_vec()
}
