//! Rules through queues (`rte_flow_async_*`): templates and tables by shape, operations, completions.
//!
//! All rules of one shape (the same items and masks, the same actions) share a table. Tables are made when the first rule
//! of a shape comes; what they hold was said when the queues were set up. The last of several queues is for calls that
//! wait, which make few rules (guards, canaries): theirs are in small tables.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use dpdk_sys as sys;
use nix::errno::Errno;

use super::{Handle, Installed, PmdFlows, nameless, whole};
use crate::dpdk::flow_rule::{
    ActionKind, Completion, ErrorKind, FlowAttr, FlowError, FlowQueues, FlowRule, ItemKind, OpStatus, Parts,
    QueueLimits, RawItem, layout::ModifyField,
};
use crate::dpdk::port::{Inner, Phase, SendMut};

/// Rules that a table for calls that wait holds.
const FEW: u32 = 64;

/// What a port with queues has.
#[derive(Debug)]
pub(super) struct Queued {
    queues: FlowQueues,
    /// By shape, and how many rules they hold.
    tables: HashMap<(Shape, u32), Table>,
    operations: BTreeMap<usize, Operation>,
    last: usize,
}

/// An item's kind, its mask, and which bytes have a range.
type ItemShape = (ItemKind, Option<Vec<u8>>, Option<Vec<u8>>);

/// What the rules of a table have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    attr: FlowAttr,
    items: Vec<ItemShape>,
    /// Of MODIFY_FIELD all but the value.
    actions: Vec<(ActionKind, Option<Vec<u8>>)>,
}

#[derive(Clone, Copy, Debug)]
struct Table(NonNull<sys::rte_flow_template_table>);

// SAFETY: a name for the driver; calls with it are locked.
unsafe impl Send for Table {}
// SAFETY: it is only copied.
unsafe impl Sync for Table {}

impl Table {
    fn get(self) -> *mut sys::rte_flow_template_table {
        self.0.as_ptr()
    }
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    token: u64,
    rule: u64,
    creates: bool,
}

impl Shape {
    fn of(rule: &FlowRule) -> Self {
        let view = rule.view();
        let action = |kind: ActionKind, conf: Option<&[u8]>| {
            let modify = conf.filter(|_| kind == ActionKind::MODIFY_FIELD).and_then(ModifyField::read);
            (kind, modify.map(|modify| ModifyField { value: [0; 16], ..modify }.bytes().to_vec()))
        };
        let item = |item: &RawItem<'_>| {
            let ranged = |last: &[u8]| last.iter().map(|byte| if *byte == 0 { 0 } else { 0xff }).collect();
            (item.kind, item.mask.map(<[u8]>::to_vec), item.last.map(ranged))
        };
        Self {
            attr: view.attr(),
            items: view.items().iter().map(item).collect(),
            actions: view.actions().iter().map(|one| action(one.kind, one.conf)).collect(),
        }
    }

    /// The shape as a rule, and a rule whose actions mark what is the same in all rules: of MODIFY_FIELD all but the
    /// value, of others nothing.
    fn templates(&self) -> [FlowRule; 2] {
        let mut template = FlowRule::new(self.attr);
        let mut masks = FlowRule::new(self.attr);
        for (kind, mask, last) in &self.items {
            let mask = mask.as_deref();
            template.item(*kind, &Parts { spec: mask, last: last.as_deref(), mask });
        }
        for (kind, conf) in &self.actions {
            let nothing = kind.size().filter(|size| *size > 0).map(|size| vec![0; size]);
            template.action(*kind, conf.as_deref().or(nothing.as_deref()));
            let fixed = conf.as_ref().map(|conf| ModifyField::constant_part(conf.len()));
            masks.action(*kind, fixed.as_deref().or(nothing.as_deref()));
        }
        [template, masks]
    }
}

impl PmdFlows {
    /// The queues that were set up.
    pub(in crate::dpdk) fn queues(&self) -> Option<FlowQueues> {
        self.0.flows().queued.as_ref().map(|queued| queued.queues)
    }

    pub(in crate::dpdk) fn queue_limits(&self) -> Result<QueueLimits, FlowError> {
        let mut ports = sys::rte_flow_port_info::default();
        let mut queues = sys::rte_flow_queue_info::default();
        let (to_ports, to_queues) = (SendMut(&raw mut ports), SendMut(&raw mut queues));
        self.0.flow_call(move |port, error| {
            // SAFETY: the port exists, and both structures are writable until `flow_call` returns.
            unsafe { sys::rte_flow_info_get(port, to_ports.get(), to_queues.get(), error) }
        })?;
        let (queue, counters) = (ports.max_nb_queues, ports.max_nb_counters);
        Ok(QueueLimits { queues: queue, depth: queues.max_size, counters })
    }

    pub(in crate::dpdk) fn configure(&self, queues: &FlowQueues) -> Result<(), FlowError> {
        let inner = &self.0;
        let state = inner.state();
        if state.phase != Phase::Configured {
            let message = "flow queues are set up between the port's configuration and its start";
            return Err(FlowError::new(ErrorKind::State, Errno::EBUSY, message));
        }
        let mut installed = inner.flows();
        inner.flow_call(|port, error| {
            let queue = sys::rte_flow_queue_attr { size: queues.depth };
            let mut all = vec![ptr::from_ref(&queue); queues.queues.into()];
            let attr = sys::rte_flow_port_attr {
                nb_counters: queues.rules,
                nb_aging_objects: queues.rules,
                ..Default::default()
            };
            // SAFETY: the port is configured and not started; there are as many queue attributes as is said.
            unsafe { sys::rte_flow_configure(port, &raw const attr, queues.queues, all.as_mut_ptr(), error) }
        })?;
        let (tables, operations) = (HashMap::new(), BTreeMap::new());
        installed.queued = Some(Queued { queues: *queues, tables, operations, last: 0 });
        Ok(())
    }

    pub(in crate::dpdk) fn enqueue_create(
        &self,
        queue: u16,
        rule: &FlowRule,
        token: u64,
    ) -> Result<u64, FlowError> {
        whole(rule)?;
        let mut installed = self.0.flows();
        let table = installed.queue(queue)?.table(&self.0, queue, Shape::of(rule))?;
        let id = installed.last + 1;
        let number = installed.queue(queue)?.begin(Operation { token, rule: id, creates: true });
        let mut handle = None;
        let made = self.0.flow_call(|port, error| {
            let (raw, op) = (rule.raw(), postponed());
            let (items, actions) = (raw.items.as_ptr(), raw.actions.as_ptr());
            let user = ptr::without_provenance_mut::<c_void>(number);
            // SAFETY: the table is this port's and was made for rules of this shape, by one template each; the arrays have
            // their ends, and what they point to lives as long as `rule`. Calls are locked, so the queue is used by
            // one thread at a time.
            let made = unsafe {
                sys::rte_flow_async_create(
                    port,
                    queue.into(),
                    &raw const op,
                    table.get(),
                    items,
                    0,
                    actions,
                    0,
                    user,
                    error,
                )
            };
            handle = NonNull::new(made).map(Handle);
            // SAFETY: reads this thread's rte_errno.
            if handle.is_some() { 0 } else { -unsafe { sys::shim_errno() } }
        });
        match (made, handle) {
            (Ok(()), Some(handle)) => Ok(installed.add(handle)),
            (made, _) => {
                installed.queue(queue)?.operations.remove(&number);
                Err(made.err().unwrap_or_else(nameless))
            }
        }
    }

    pub(in crate::dpdk) fn enqueue_destroy(&self, queue: u16, id: u64, token: u64) -> Result<(), FlowError> {
        let mut installed = self.0.flows();
        let handle = *installed.rules.get(&id).ok_or_else(FlowError::no_such_rule)?;
        let queued = installed.queue(queue)?;
        if queued.operations.values().any(|operation| operation.rule == id) {
            let message = "an operation on this rule has not ended yet";
            return Err(FlowError::new(ErrorKind::Handle, Errno::EBUSY, message));
        }
        let number = queued.begin(Operation { token, rule: id, creates: false });
        let asked = self.0.flow_call(|port, error| {
            let (op, user) = (postponed(), ptr::without_provenance_mut::<c_void>(number));
            // SAFETY: the handle is one that the driver gave for this port, whose creation has ended and whose removal was
            // not asked for. Calls are locked.
            unsafe {
                sys::rte_flow_async_destroy(port, queue.into(), &raw const op, handle.get(), user, error)
            }
        });
        if asked.is_err() {
            queued.operations.remove(&number);
        }
        asked
    }

    pub(in crate::dpdk) fn push(&self, queue: u16) -> Result<(), FlowError> {
        let mut installed = self.0.flows();
        installed.queue(queue)?;
        // SAFETY: the queue is configured; calls are locked.
        self.0.flow_call(|port, error| unsafe { sys::rte_flow_push(port, queue.into(), error) })
    }

    pub(in crate::dpdk) fn pull(
        &self,
        queue: u16,
        most: usize,
        ended: &mut Vec<Completion>,
    ) -> Result<(), FlowError> {
        let mut installed = self.0.flows();
        installed.queue(queue)?;
        let mut numbers = Vec::new();
        self.0.flow_call(|port, error| {
            let result =
                sys::rte_flow_op_result { status: sys::RTE_FLOW_OP_ERROR, user_data: ptr::null_mut() };
            let mut results = vec![result; most];
            let room = u16::try_from(most).unwrap_or(u16::MAX);
            // SAFETY: the queue is configured; there is room for so many results. Calls are locked.
            let got = unsafe { sys::rte_flow_pull(port, queue.into(), results.as_mut_ptr(), room, error) };
            results.truncate(usize::try_from(got).unwrap_or(0));
            numbers
                .extend(results.iter().map(|r| (r.user_data.addr(), r.status == sys::RTE_FLOW_OP_SUCCESS)));
            got
        })?;
        for (number, done) in numbers {
            let Some(operation) = installed.queue(queue)?.operations.remove(&number) else { continue };
            if operation.creates != done {
                installed.rules.remove(&operation.rule);
            }
            let refused = || FlowError::new(ErrorKind::Unspecified, Errno::EIO, "the NIC refused it");
            let status = if done { OpStatus::Done } else { OpStatus::Refused(refused()) };
            ended.push(Completion { token: operation.token, status });
        }
        Ok(())
    }
}

impl Installed {
    fn queue(&mut self, queue: u16) -> Result<&mut Queued, FlowError> {
        let there = self.queued.as_mut().filter(|queued| queue < queued.queues.queues);
        there.ok_or_else(|| FlowError::new(ErrorKind::State, Errno::EINVAL, "there is no such flow queue"))
    }
}

impl Queued {
    /// A number for an operation: never 0, and never given twice.
    fn begin(&mut self, operation: Operation) -> usize {
        self.last += 1;
        self.operations.insert(self.last, operation);
        self.last
    }

    fn table(&mut self, port: &Inner, queue: u16, shape: Shape) -> Result<Table, FlowError> {
        let waits = queue > 0 && queue + 1 == self.queues.queues;
        let rules = if waits { self.queues.rules.min(FEW) } else { self.queues.rules };
        let key = (shape, rules);
        if let Some(table) = self.tables.get(&key) {
            return Ok(*table);
        }
        let [template, masks] = key.0.templates();
        let mut table = None;
        port.flow_call(|id, error| {
            let (template, masks) = (template.raw(), masks.raw());
            let attr = template.attr;
            let mut pattern_attr = sys::rte_flow_pattern_template_attr::default();
            pattern_attr.set_ingress(attr.ingress());
            pattern_attr.set_transfer(attr.transfer());
            let mut actions_attr = sys::rte_flow_actions_template_attr::default();
            actions_attr.set_ingress(attr.ingress());
            actions_attr.set_transfer(attr.transfer());
            let table_attr = sys::rte_flow_template_table_attr { flow_attr: attr, nb_flows: rules };
            // SAFETY: the port exists; the arrays have their ends and live until the calls return. A template is destroyed
            // once, and only if no table was made of it: a table keeps its templates until the port is closed.
            unsafe {
                let pattern = sys::rte_flow_pattern_template_create(
                    id,
                    &raw const pattern_attr,
                    template.items.as_ptr(),
                    error,
                );
                if pattern.is_null() {
                    return -sys::shim_errno();
                }
                let actions = sys::rte_flow_actions_template_create(
                    id,
                    &raw const actions_attr,
                    template.actions.as_ptr(),
                    masks.actions.as_ptr(),
                    error,
                );
                if actions.is_null() {
                    let errno = sys::shim_errno();
                    sys::rte_flow_pattern_template_destroy(id, pattern, ptr::null_mut());
                    return -errno;
                }
                let (mut patterns, mut lists) = ([pattern], [actions]);
                let made = sys::rte_flow_template_table_create(
                    id,
                    &raw const table_attr,
                    patterns.as_mut_ptr(),
                    1,
                    lists.as_mut_ptr(),
                    1,
                    error,
                );
                table = NonNull::new(made).map(Table);
                if table.is_none() {
                    let errno = sys::shim_errno();
                    sys::rte_flow_actions_template_destroy(id, actions, ptr::null_mut());
                    sys::rte_flow_pattern_template_destroy(id, pattern, ptr::null_mut());
                    return -errno;
                }
            }
            0
        })?;
        let table = table.ok_or_else(nameless)?;
        self.tables.insert(key, table);
        Ok(table)
    }
}

/// Operations wait for the next push.
fn postponed() -> sys::rte_flow_op_attr {
    let mut op = sys::rte_flow_op_attr::default();
    op.set_postpone(1);
    op
}
