//! A rule as C structures, with all that they point to.

use std::fmt;
use std::ptr::{self, NonNull};

use dpdk_sys as sys;

use super::{ActionKind, ItemKind, RuleView};

/// Where a rule stands (`struct rte_flow_attr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowAttr {
    /// Group; packets begin in group 0.
    pub group: u32,
    /// Within the group, 0 is tried first.
    pub priority: u32,
    /// For packets that come in.
    pub ingress: bool,
    /// For packets that leave.
    pub egress: bool,
    /// For packets of all ports of the device.
    pub transfer: bool,
}

/// What an item asks for: contents of its C structure, which may be shorter than it; what is missing is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// Values.
    pub spec: Option<&'a [u8]>,
    /// Upper ends of ranges.
    pub last: Option<&'a [u8]>,
    /// Bits that matter.
    pub mask: Option<&'a [u8]>,
}

/// A rule: attributes, items and actions as `rte_flow_create` takes them.
///
/// Ends of both lists are added by themselves, unless they are [left out](Self::unterminated).
pub struct FlowRule {
    attr: sys::rte_flow_attr,
    /// Each points to blobs of its kind's size, or nowhere; so do the actions.
    items: Vec<sys::rte_flow_item>,
    actions: Vec<sys::rte_flow_action>,
    blobs: Vec<Blob>,
    terminated: bool,
}

// SAFETY: a rule owns all that its pointers point to, and nothing is written through a shared reference.
unsafe impl Send for FlowRule {}
// SAFETY: as above.
unsafe impl Sync for FlowRule {}

impl FlowRule {
    /// A rule without items and actions.
    pub fn new(attr: FlowAttr) -> Self {
        let mut raw = sys::rte_flow_attr { group: attr.group, priority: attr.priority, ..Default::default() };
        raw.set_ingress(attr.ingress.into());
        raw.set_egress(attr.egress.into());
        raw.set_transfer(attr.transfer.into());
        Self { attr: raw, items: Vec::new(), actions: Vec::new(), blobs: Vec::new(), terminated: true }
    }

    /// The attributes.
    pub fn attr(&self) -> FlowAttr {
        attr_of(&self.attr)
    }

    /// Adds an item. Of contents longer than the kind's C structure the rest is left out.
    pub fn item(&mut self, kind: ItemKind, parts: &Parts<'_>) -> &mut Self {
        let size = kind.size().unwrap_or(0);
        let [spec, last, mask] = [parts.spec, parts.last, parts.mask].map(|content| self.keep(content, size));
        self.items.push(sys::rte_flow_item { type_: kind.raw(), spec, last, mask });
        self
    }

    /// Adds an action. Of contents longer than the kind's C structure the rest is left out.
    ///
    /// An [`RSS`](ActionKind::RSS) needs its [queues](Self::rss).
    pub fn action(&mut self, kind: ActionKind, conf: Option<&[u8]>) -> &mut Self {
        // Its structure has pointers, which are not to be made of bytes.
        let conf = conf.filter(|_| kind != ActionKind::RSS);
        let conf = self.keep(conf, kind.size().unwrap_or(0));
        self.actions.push(sys::rte_flow_action { type_: kind.raw(), conf });
        self
    }

    /// Adds an action: to software through one of these queues, as the port's own hash says.
    pub fn rss(&mut self, queues: &[u16]) -> &mut Self {
        let bytes: Vec<u8> = queues.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        let queue = self.keep(Some(&bytes), bytes.len()).cast::<u16>();
        let conf = sys::rte_flow_action_rss { queue_num: queues.len() as u32, queue, ..empty_rss() };
        let blob = Blob::new(size_of::<sys::rte_flow_action_rss>());
        // SAFETY: the blob is large enough, and aligned for any C structure.
        unsafe { blob.0.cast().write(conf) };
        self.actions.push(sys::rte_flow_action {
            type_: ActionKind::RSS.raw(),
            conf: blob.0.as_ptr().cast_const().cast(),
        });
        self.blobs.push(blob);
        self
    }

    /// Leaves out the ends of both lists, to see that a driver's stand-in notices. A driver would read on without an
    /// end, so none is given such a rule.
    pub fn unterminated(&mut self) -> &mut Self {
        self.terminated = false;
        self
    }

    /// The rule as its receiver sees it.
    pub fn view(&self) -> RuleView<'_> {
        let raw = self.raw();
        // SAFETY: items and actions point to what `keep` and `rss` made, which lives as long as `self`.
        unsafe { RuleView::read(&self.attr, &raw.items, &raw.actions) }
    }

    /// Whether it has its ends.
    pub(in crate::dpdk) fn is_terminated(&self) -> bool {
        self.terminated
    }

    /// The arrays, with their ends. What they point to lives as long as `self`.
    pub(in crate::dpdk) fn raw(&self) -> RawRule {
        let (mut items, mut actions) = (self.items.clone(), self.actions.clone());
        if self.terminated {
            let (spec, last, mask) = (ptr::null(), ptr::null(), ptr::null());
            items.push(sys::rte_flow_item { type_: sys::RTE_FLOW_ITEM_TYPE_END, spec, last, mask });
            actions.push(sys::rte_flow_action { type_: sys::RTE_FLOW_ACTION_TYPE_END, conf: ptr::null() });
        }
        RawRule { attr: self.attr, items, actions }
    }

    fn keep(&mut self, content: Option<&[u8]>, size: usize) -> *const std::ffi::c_void {
        let Some(content) = content.filter(|_| size > 0) else { return ptr::null() };
        let blob = Blob::new(size);
        let len = content.len().min(size);
        // SAFETY: the blob has `size` bytes, and is not where `content` is.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), blob.0.as_ptr().cast(), len) };
        let place = blob.0.as_ptr().cast_const().cast();
        self.blobs.push(blob);
        place
    }
}

impl fmt::Debug for FlowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.view(), f)
    }
}

impl Clone for FlowRule {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.attr());
        let view = self.view();
        for item in view.items() {
            let parts = Parts { spec: item.spec, last: item.last, mask: item.mask };
            copy.item(item.kind, &parts);
        }
        for action in view.actions() {
            match action.kind {
                ActionKind::RSS => copy.rss(&action.queues),
                kind => copy.action(kind, action.conf),
            };
        }
        copy.terminated = self.terminated;
        copy
    }
}

/// The three arguments that every call takes.
pub(in crate::dpdk) struct RawRule {
    pub(in crate::dpdk) attr: sys::rte_flow_attr,
    pub(in crate::dpdk) items: Vec<sys::rte_flow_item>,
    pub(in crate::dpdk) actions: Vec<sys::rte_flow_action>,
}

/// The attributes in the words of this module.
pub(super) fn attr_of(raw: &sys::rte_flow_attr) -> FlowAttr {
    FlowAttr {
        group: raw.group,
        priority: raw.priority,
        ingress: raw.ingress() != 0,
        egress: raw.egress() != 0,
        transfer: raw.transfer() != 0,
    }
}

fn empty_rss() -> sys::rte_flow_action_rss {
    sys::rte_flow_action_rss {
        func: sys::RTE_ETH_HASH_FUNCTION_DEFAULT,
        level: 0,
        types: 0,
        key_len: 0,
        queue_num: 0,
        key: ptr::null(),
        queue: ptr::null(),
    }
}

/// Memory that begins as zeros, does not move, and is aligned for any C structure. By pointer and not by `Box`, since the
/// structures point to it meanwhile.
struct Blob(NonNull<u64>, usize);

impl Blob {
    fn new(bytes: usize) -> Self {
        let words = bytes.div_ceil(size_of::<u64>()).max(1);
        let memory: &mut [u64] = Box::leak(vec![0; words].into_boxed_slice());
        Self(NonNull::from(memory).cast(), words)
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: `new` leaked a slice of so many words from here, and whatever points to it goes with the rule.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(self.0.as_ptr(), self.1)) });
    }
}
