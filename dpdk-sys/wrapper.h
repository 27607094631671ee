/* What bindgen reads: DPDK's headers, the mbuf's layout by fixed names, and the functions of shim.c. */
#ifndef FLYOVER_WRAPPER_H
#define FLYOVER_WRAPPER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_bus.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* The headers of a release are not always those of the library that is installed: refuse what was never tried. */
#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or later is needed"
#endif

/*
 * The head of struct rte_mbuf. Its fields sit in anonymous unions and structs whose number differs between
 * releases, and bindgen names those by their number; the offsets are ABI. shim.c asserts each of them.
 */
struct shim_mbuf {
	void *buf_addr;
	uint64_t iova_or_next;
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t rss_hash;
	uint32_t fdir_id;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
};

/* rte_flow_action_modify_data became rte_flow_field_data in 24.03. */
#if RTE_VERSION >= RTE_VERSION_NUM(24, 3, 0, 0)
typedef struct rte_flow_field_data shim_flow_field_data;
#else
typedef struct rte_flow_action_modify_data shim_flow_field_data;
#endif

/* Bursts: the static inlines of rte_ethdev.h and rte_mbuf.h. */
uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool);
int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n);
uint32_t shim_mbuf_copy(const struct rte_mbuf *mbuf, void *to, uint32_t room);
void shim_mbuf_free(struct rte_mbuf *mbuf);
void shim_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int n);
void shim_mempool_cache_flush(struct rte_mempool *pool);

/* Thread-local and inline state. rte_errno and the lcore id are per_lcore variables, which cannot be bound. */
int shim_errno(void);
unsigned int shim_lcore_id(void);
uint64_t shim_rdtsc(void);

/* rte_eth_link turned into a union of bit-fields and a 64-bit word in later releases. */
struct shim_link {
	uint32_t speed_mbps;
	uint8_t full_duplex;
	uint8_t up;
};
int shim_link_get_nowait(uint16_t port, struct shim_link *link);

/* IPv6 addresses became struct rte_ipv6_addr in 24.11. */
void shim_ipv6_set_addresses(struct rte_ipv6_hdr *header, const uint8_t src[16], const uint8_t dst[16]);
void shim_flow_set_ipv6(struct rte_flow_action_set_ipv6 *action, const uint8_t address[16]);

/* A stream for rte_openlog_stream() that hands every write to a function. */
typedef void (*shim_log_write)(const char *text, size_t len);
FILE *shim_log_open(shim_log_write write);

/* The values of macros that expand to expressions bindgen cannot evaluate. */
enum shim_limits {
	SHIM_LCORE_ID_ANY = LCORE_ID_ANY,
	SHIM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
};

#endif
