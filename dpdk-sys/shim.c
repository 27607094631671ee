/* Out-of-line copies of DPDK's static inlines, a call a burst, and one name for what differs between releases. */
#define _GNU_SOURCE
#include "wrapper.h"

#include <string.h>

#define SAME_OFFSET(ours, theirs)                                                                                      \
	_Static_assert(offsetof(struct shim_mbuf, ours) == offsetof(struct rte_mbuf, theirs), "layout of rte_mbuf")
SAME_OFFSET(buf_addr, buf_addr);
SAME_OFFSET(data_off, data_off);
SAME_OFFSET(refcnt, refcnt);
SAME_OFFSET(nb_segs, nb_segs);
SAME_OFFSET(port, port);
SAME_OFFSET(ol_flags, ol_flags);
SAME_OFFSET(packet_type, packet_type);
SAME_OFFSET(pkt_len, pkt_len);
SAME_OFFSET(data_len, data_len);
SAME_OFFSET(vlan_tci, vlan_tci);
SAME_OFFSET(rss_hash, hash.rss);
SAME_OFFSET(fdir_id, hash.fdir.hi);
SAME_OFFSET(vlan_tci_outer, vlan_tci_outer);
SAME_OFFSET(buf_len, buf_len);
SAME_OFFSET(pool, pool);

uint16_t
shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, mbufs, n);
}

uint16_t
shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

struct rte_mbuf *
shim_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int
shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, n);
}

/* All segments, as far as there is room; gives the bytes copied. */
uint32_t
shim_mbuf_copy(const struct rte_mbuf *mbuf, void *to, uint32_t room)
{
	uint32_t len = RTE_MIN(rte_pktmbuf_pkt_len(mbuf), room);
	const void *from = rte_pktmbuf_read(mbuf, 0, len, to);

	if (from == NULL)
		return 0;
	if (from != to)
		memcpy(to, from, len);
	return len;
}

void
shim_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void
shim_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int n)
{
	rte_pktmbuf_free_bulk(mbufs, n);
}

void
shim_mempool_cache_flush(struct rte_mempool *pool)
{
	rte_mempool_cache_flush(NULL, pool);
}

int
shim_errno(void)
{
	return rte_errno;
}

unsigned int
shim_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t
shim_rdtsc(void)
{
	return rte_rdtsc();
}

int
shim_link_get_nowait(uint16_t port, struct shim_link *link)
{
	struct rte_eth_link from;
	int ret;

	memset(&from, 0, sizeof(from));
	ret = rte_eth_link_get_nowait(port, &from);
	if (ret < 0)
		return ret;
	link->speed_mbps = from.link_speed;
	link->full_duplex = from.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	link->up = from.link_status == RTE_ETH_LINK_UP;
	return 0;
}

void
shim_ipv6_set_addresses(struct rte_ipv6_hdr *header, const uint8_t src[16], const uint8_t dst[16])
{
	memcpy(&header->src_addr, src, 16);
	memcpy(&header->dst_addr, dst, 16);
}

void
shim_flow_set_ipv6(struct rte_flow_action_set_ipv6 *action, const uint8_t address[16])
{
	memcpy(&action->ipv6_addr, address, 16);
}

static ssize_t
log_write(void *cookie, const char *text, size_t len)
{
	shim_log_write write;

	memcpy(&write, &cookie, sizeof(write));
	write(text, len);
	return (ssize_t)len;
}

FILE *
shim_log_open(shim_log_write write)
{
	cookie_io_functions_t functions = { .write = log_write };
	void *cookie;

	memcpy(&cookie, &write, sizeof(cookie));
	return fopencookie(cookie, "w", functions);
}
