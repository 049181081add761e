// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call: inline functions, macros, per-CPU variables.  No
 * policy here; rust/net gives these functions their safe shape.  Helpers that
 * touch sockets are in sock_helpers.c, sysctl in sysctl.c.
 */
#include <linux/module.h>
#include <linux/interrupt.h>
#include <linux/jhash.h>
#include <linux/page_frag_cache.h>
#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/siphash.h>
#include <linux/timekeeping.h>
#include <linux/time.h>

#include "bindings.h"

static DEFINE_PER_CPU(struct squall_cpu, squall_cpu);
static struct workqueue_struct *squall_wq;
static siphash_key_t squall_key;

/*
 * BH work: runs in softirq on the CPU that queued it, never sleeps.  Of its
 * own, so that it can be drained before the module's text goes away.
 */
int squall_run_start(void (*fn)(struct work_struct *work))
{
	int cpu;

	get_random_bytes(&squall_key, sizeof(squall_key));
	squall_wq = alloc_workqueue("squall", WQ_BH | WQ_HIGHPRI | WQ_PERCPU, 0);
	if (!squall_wq)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		struct squall_cpu *c = per_cpu_ptr(&squall_cpu, cpu);

		init_llist_head(&c->run);
		c->rest = NULL;
		INIT_WORK(&c->work, fn);
	}
	return 0;
}

static void page_drain(struct squall_page *p)
{
	if (p->page)
		__page_frag_cache_drain(p->page, p->refs);
	p->page = NULL;
}

void squall_run_stop(void)
{
	int cpu, i;

	destroy_workqueue(squall_wq);
	squall_wq = NULL;
	for_each_possible_cpu(cpu) {
		struct squall_cpu *c = per_cpu_ptr(&squall_cpu, cpu);

		for (i = 0; i < SQUALL_PAGES; i++)
			page_drain(&c->pages[i]);
	}
}

/* Any context.  The caller's reference to the connection goes with the node. */
void squall_run_kick(struct llist_node *node)
{
	int cpu = get_cpu();
	struct squall_cpu *c = per_cpu_ptr(&squall_cpu, cpu);

	if (llist_add(node, &c->run))
		queue_work_on(cpu, squall_wq, &c->work);
	put_cpu();
}

/* From @work only: the nodes to serve, oldest first. */
struct llist_node *squall_run_take(struct work_struct *work)
{
	struct squall_cpu *c = container_of(work, struct squall_cpu, work);
	struct llist_node *rest = c->rest;

	if (rest) {
		c->rest = NULL;
		if (!llist_empty(&c->run))
			queue_work(squall_wq, work);
		return rest;
	}
	return llist_reverse_order(llist_del_all(&c->run));
}

/* From @work only: keep @rest for the next pass and ask for it. */
void squall_run_defer(struct work_struct *work, struct llist_node *rest)
{
	struct squall_cpu *c = container_of(work, struct squall_cpu, work);

	c->rest = rest;
	queue_work(squall_wq, work);
}

bool squall_queue_bh(struct work_struct *work)
{
	return queue_work(squall_wq, work);
}

void squall_count(u32 which, u64 n)
{
	if (likely(which < SQUALL_COUNTERS))
		this_cpu_add(squall_cpu.counters[which], n);
}

u64 squall_count_sum(u32 which)
{
	u64 sum = 0;
	int cpu;

	if (which >= SQUALL_COUNTERS)
		return 0;
	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu(squall_cpu, cpu).counters[which]);
	return sum;
}

void squall_spin_lock_init(spinlock_t *lock, const char *name,
			   struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(spinlock_check(lock), name, key, LD_WAIT_CONFIG);
#else
	spin_lock_init(lock);
#endif
}

void squall_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

bool squall_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

void squall_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

void squall_assert_spin_locked(spinlock_t *lock)
{
	lockdep_assert_held(lock);
}

static struct kmem_cache *squall_conns;

/* Init of the module.  A cache of their own packs connections by their size. */
int squall_conns_create(u32 size)
{
	squall_conns = kmem_cache_create("squall_conn", size, 0, SLAB_NO_MERGE,
					 NULL);
	return squall_conns ? 0 : -ENOMEM;
}

/* Waits for those that squall_kfree_rcu() was given. */
void squall_conns_destroy(void)
{
	kmem_cache_destroy(squall_conns);
}

void *squall_conn_alloc(void)
{
	return kmem_cache_alloc(squall_conns, SQUALL_GFP_ATOMIC);
}

/* One that never was in use. */
void squall_conn_free(void *conn)
{
	kmem_cache_free(squall_conns, conn);
}

/* @head is a member of @object, which kfree() takes after a grace period. */
void squall_kfree_rcu(struct rcu_head *head, void *object)
{
	kvfree_call_rcu((struct kvfree_rcu_head *)head, object);
}

/*
 * Softirq, or a kernel thread that does a softirq's work with BH disabled:
 * napi_threaded_poll(), and what runs the backlogs of CPUs.
 */
bool squall_in_softirq(void)
{
	return in_serving_softirq() ||
	       (in_softirq() && current->flags & PF_KTHREAD);
}

/* Any context.  The same in every boot, as who relies on it may expect. */
u32 squall_hash(const u32 *words, u32 count, u32 seed)
{
	return jhash2(words, count, seed);
}

/* Any context.  Of a key that is secret and new with each loading. */
u64 squall_keyed_hash(u64 a, u64 b, u64 c)
{
	return siphash_3u64(a, b, c, &squall_key);
}

/* Any context: what was kept there on this CPU, which is the caller's then. */
void *squall_spare_take(u32 slot)
{
	return this_cpu_xchg(squall_cpu.spares[slot], NULL);
}

/*
 * Any context: keeps @spare there on this CPU; returns what was kept before,
 * which is the caller's then.
 */
void *squall_spare_keep(u32 slot, void *spare)
{
	return this_cpu_xchg(squall_cpu.spares[slot], spare);
}

/* When nothing keeps anything there any more: takes all. */
void squall_spare_each(u32 slot, void (*fn)(void *spare))
{
	int cpu;

	for_each_possible_cpu(cpu) {
		void **spare = &per_cpu_ptr(&squall_cpu, cpu)->spares[slot];

		if (*spare)
			fn(*spare);
		*spare = NULL;
	}
}

unsigned long squall_jiffies(void)
{
	return jiffies;
}

u64 squall_ns(void)
{
	return ktime_get_ns();
}

/*
 * BH only: @date gets the present as an IMF-fixdate, SQUALL_DATE_LEN bytes, of
 * which this CPU makes one per second at most.  RFC 9110 section 5.6.7.
 */
void squall_date(u8 *date)
{
	static const char days[][4] = {
		"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat",
	};
	static const char months[][4] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun",
		"Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
	};
	struct squall_cpu *c = this_cpu_ptr(&squall_cpu);
	time64_t now = ktime_get_real_seconds();

	if (now != c->date_at || !*c->date) {
		struct tm tm;

		time64_to_tm(now, 0, &tm);
		/* A year has four digits up to the end of the calendar. */
		scnprintf(c->date, sizeof(c->date),
			  "%s, %02d %s %04ld %02d:%02d:%02d GMT",
			  days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon],
			  min(tm.tm_year + 1900L, 9999L), tm.tm_hour,
			  tm.tm_min, tm.tm_sec);
		c->date_at = now;
	}
	memcpy(date, c->date, SQUALL_DATE_LEN);
}

void squall_timer_setup(struct timer_list *timer,
			void (*fn)(struct timer_list *timer))
{
	timer_setup(timer, fn, 0);
}

void squall_work_setup(struct work_struct *work,
		       void (*fn)(struct work_struct *work))
{
	INIT_WORK(work, fn);
}

/* Every connection that has a hooked socket: to unload, to drain, to shed. */
static LIST_HEAD(squall_registry);
static DEFINE_SPINLOCK(squall_registry_lock);

void squall_registry_add(struct list_head *entry)
{
	spin_lock_bh(&squall_registry_lock);
	list_add_tail(entry, &squall_registry);
	spin_unlock_bh(&squall_registry_lock);
}

void squall_registry_del(struct list_head *entry)
{
	spin_lock_bh(&squall_registry_lock);
	list_del(entry);
	spin_unlock_bh(&squall_registry_lock);
}

/* @fn runs with the registry's lock held and must not take a socket's. */
void squall_registry_each(void (*fn)(struct list_head *entry, u32 arg), u32 arg)
{
	struct list_head *entry;

	spin_lock_bh(&squall_registry_lock);
	list_for_each(entry, &squall_registry)
		fn(entry, arg);
	spin_unlock_bh(&squall_registry_lock);
}

/*
 * As squall_registry_each(), for the next @count of them: they are at the end of
 * the list then, and the next call goes on behind them.
 */
void squall_registry_rotate(void (*fn)(struct list_head *entry, void *arg),
			    void *arg, u32 count)
{
	spin_lock_bh(&squall_registry_lock);
	while (count-- && !list_empty(&squall_registry)) {
		struct list_head *entry = squall_registry.next;

		list_move_tail(entry, &squall_registry);
		fn(entry, arg);
	}
	spin_unlock_bh(&squall_registry_lock);
}

/* The contiguous bytes of @skb at @offset, its fragment list left aside. */
static bool skb_own_piece(struct sk_buff *skb, u32 offset,
			  struct squall_piece *piece)
{
	u32 pos = skb_headlen(skb);
	struct page *page;
	int i;

	if (offset < pos) {
		piece->data = skb->data + offset;
		piece->len = pos - offset;
		page = virt_to_head_page(piece->data);
		if (!skb_head_is_locked(skb) && sendpage_ok(page)) {
			piece->page = page;
			piece->offset = piece->data - page_address(page);
		}
		return true;
	}
	if (!skb_frags_readable(skb))
		return false;
	for (i = 0; i < skb_shinfo(skb)->nr_frags; i++) {
		skb_frag_t *frag = &skb_shinfo(skb)->frags[i];
		u32 size = skb_frag_size(frag);

		if (offset < pos + size) {
			page = skb_frag_page(frag);
			if (!page)
				return false;
			piece->data = skb_frag_address(frag) + (offset - pos);
			piece->len = pos + size - offset;
			piece->shared = skb_has_shared_frag(skb);
			if (sendpage_ok(page)) {
				piece->page = page;
				piece->offset = skb_frag_off(frag) + offset - pos;
			}
			return true;
		}
		pos += size;
	}
	return false;
}

/*
 * The contiguous bytes of @skb at @offset.  piece->page is set when a
 * reference to the page may be taken instead of a copy: page frags that are
 * readable, and a head that is a page frag itself and not shared with a clone.
 * GRO chains skbs one level deep; a deeper chain is refused.
 */
bool squall_skb_piece(struct sk_buff *skb, u32 offset,
		      struct squall_piece *piece)
{
	struct sk_buff *list;
	u32 pos;

	piece->page = NULL;
	piece->shared = false;
	if (!skb_has_frag_list(skb))
		return skb_own_piece(skb, offset, piece);

	pos = skb->len;
	skb_walk_frags(skb, list)
		pos -= list->len;
	if (offset < pos)
		return skb_own_piece(skb, offset, piece);
	skb_walk_frags(skb, list) {
		if (offset < pos + list->len)
			return !skb_has_frag_list(list) &&
			       skb_own_piece(list, offset - pos, piece);
		pos += list->len;
	}
	return false;
}

/*
 * Fills @pieces with up to @max pieces of @skb that follow each other from
 * @offset on, up to @want bytes, as far as references to their pages may be
 * taken.  Each has @least bytes, or as many as that on average with those
 * before it, so that what the pages pin stays in proportion; the first one with
 * the one behind it.  Returns how many there are, and in @bytes what they have.
 */
u32 squall_skb_pieces(struct sk_buff *skb, u32 offset, u32 want, u32 least,
		      struct bio_vec *pieces, u32 max, u32 *bytes)
{
	u32 count = 0, sum = 0;

	while (count < max && sum < want) {
		struct squall_piece piece;
		u32 take;

		if (!squall_skb_piece(skb, offset + sum, &piece) || !piece.page)
			break;
		take = min(piece.len, want - sum);
		if (count > 0 && sum + take < least * (count + 1))
			break;
		bvec_set_page(&pieces[count++], piece.page, take, piece.offset);
		sum += take;
	}
	*bytes = sum;
	return sum < least ? 0 : count;
}

void squall_get_page(struct page *page)
{
	get_page(page);
}

void squall_put_page(struct page *page)
{
	put_page(page);
}

/* References that a page is given at once: no more pieces than bytes. */
#define SQUALL_PAGE_REFS ((u32)PAGE_SIZE + 1)

/* Makes a page empty: the same if all of its pieces are gone, else a new one. */
static bool page_renew(struct squall_page *p)
{
	if (p->page && page_ref_sub_and_test(p->page, p->refs)) {
		set_page_count(p->page, SQUALL_PAGE_REFS);
	} else {
		/* The last of its pieces frees the old one. */
		p->page = alloc_page(SQUALL_GFP_ATOMIC);
		if (!p->page)
			return false;
		page_ref_add(p->page, SQUALL_PAGE_REFS - 1);
	}
	p->refs = SQUALL_PAGE_REFS;
	p->used = 0;
	return true;
}

/*
 * BH only: memory from this CPU's pages, which may be sent by reference as
 * kmalloc() memory may not.  The reference is to the page.
 * Not aligned, as napi_alloc_frag()'s is: TCP joins pieces that follow each
 * other in the page, so that tiny ones do not take an skb's fragment each.
 */
void *squall_frag_alloc(u32 size, struct page **page, u32 *offset)
{
	struct squall_cpu *c = this_cpu_ptr(&squall_cpu);
	struct squall_page *p = &c->pages[c->turn];

	if (!p->page || p->used + size > PAGE_SIZE || p->refs == 1) {
		c->turn = (c->turn + 1) % SQUALL_PAGES;
		p = &c->pages[c->turn];
		if (!page_renew(p))
			return NULL;
	}
	p->refs--;
	*page = p->page;
	*offset = p->used;
	p->used += size;
	return page_address(p->page) + *offset;
}

int squall_base64_encode(const u8 *src, int len, char *dst)
{
	return base64_encode(src, len, dst, true, BASE64_STD);
}
