/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts of the Intel network cards: causes, masks, vectors, moderation.
 *
 * Theory of operation
 * -------------------
 * *Two pairs of registers*, each of causes and of a mask: ICR and IMS, which all models have, and EICR and EIMS
 * (82576), with a bit for each MSI-X vector. A pair is one 64-bit word, changed by compare-and-swap, because causes
 * come from whatever sidecore sends to the card, masks from its own sidecore (registers in mapped pages) and from the
 * control thread (trapped ones): whoever changes the word so that an interrupt is due sends it.
 *
 * *Three ways out*
 * - The line: pin or MSI, or MSI-X with one vector only (82576 with GPIE.Multiple_MSIX clear). It is asserted while a
 *   cause is not masked, which ICR's own bit INT_ASSERTED remembers. A message is sent when that bit becomes set. The
 * pin's level is set and looked at again until it is what the word says, so the last one to set it has seen the last
 * change.
 * - Vectors of the 82574: bits 20 to 24 of ICR, given to vectors by IVAR. All but queues is "other".
 * - Vectors of the 82576: bits of EICR, given to queues and to "other" by IVAR and IVAR_MISC.
 * A vector fires when its cause and mask bits are set: with the same change, the cause is cleared (EIAC) and the mask
 * bit, too (EIAM with GPIE.EIAME; 82574: EIAC's bits, unless CTRL_EXT.IAME; IAM with CTRL_EXT.EIAME). Then the driver
 * unmasks.
 *
 * *Moderation* (EITR, ITR, and TIDV, TADV, RDTR, RADV) is a distance from the interrupt before: the first one after a
 * quiet time is sent at once, and the next ones not before the programmed interval has passed since. What has to wait
 * is left pending, and a timer of the sidecore that raised it looks again. So nothing is delayed when idle, and the
 * rate that the driver programmed is never exceeded. Where the data sheets count from an event (RDTR restarts with each
 * packet), this is earlier, never later.
 *
 * *Mapped pages (82576).* EIMS, EIMC and EICS lie in memory that the driver writes without telling. They are commands:
 * write-1-to-set or -clear. intel_interrupts_take() takes what it finds with an atomic exchange and leaves what the
 * driver shall read: for EIMS the mask, with a mark in a reserved bit, so that what the driver stores differs from what
 * we left. Trapped accesses take first, so that a driver that flushes its writes with a read finds them done. Two
 * threads may take at a time: a value of ours that one takes for the driver's only unmasks what was unmasked shortly
 * before. EICR cannot be done so, for a driver clears bits by writing what it read. Therefore every cause is cleared
 * when it fires, as EIAC would, and EICR shows those that fired last and that EIAC leaves to the driver; what the
 * driver writes there has no effect, nor need it.
 *
 * EIMS is shared by the vectors. When two CPUs store their own bits between two looks, the first store is lost. So
 * whenever a store is seen, every other vector that masked itself when it fired (@resting) and did not come back
 * becomes a *suspect*: if it has a cause pending SUSPICION_NS later, it is unmasked as if its bit had been there. If it
 * was not lost, that is a spurious interrupt to a driver that still polls, which is harmless; a lost one would be a
 * hang.
 *
 * Context: any thread; struct intel_when tells which. Registers are loaded relaxed: a moderation interval that is one
 * interrupt late is none the worse.
 */
#include "device/intel/intel_interrupt.h"
#include "base/clock.h"
#include "base/notifier.h"

#define SUSPICION_NS NANOSECONDS_PER_MILLISECOND

/** A reserved bit of EIMS in MSI-X mode: this value is ours. */
#define MARK		(1U << 31)
#define EXTENDED_CAUSES ((1U << INTEL_VECTORS_MAX) - 1)

/* ---- which way out ---- */

enum intel_way intel_way_out(const struct intel_nic *nic)
{
	if (pci_interrupts_kind(&nic->device.interrupts) != PCI_INTERRUPT_MSIX)
		return WAY_LINE;
	if (nic->variant->generation == INTEL_82574)
		return WAY_82574;
	return intel_page_load(nic, GPIE) & GPIE_MULTIPLE_MSIX ? WAY_82576 : WAY_LINE;
}

/* The vector of a cause: bit of ICR (82574) or EICR (82576). Return: -1: it has none. */
static int vector_of(const struct intel_nic *nic, unsigned bit)
{
	uint32_t ivar, field;

	if (nic->variant->generation == INTEL_82576)
		return (int)bit;
	ivar = intel_load(nic, IVAR_82574);
	field = ivar >> 4 * (bit - 20) & 15U;
	return field & 8 && (field & 7) < nic->variant->vectors ? (int)(field & 7) : -1;
}

/* ---- moderation ---- */

/* The interval of a vector in ns. */
static uint64_t interval(const struct intel_nic *nic, enum intel_way way, unsigned vector)
{
	if (nic->variant->generation == INTEL_82576)
		return (intel_page_load(nic, EITR + 4 * vector) >> 2 & 0x1fff) * NANOSECONDS_PER_MICROSECOND;
	return (intel_load(nic, way == WAY_82574 ? EITR_82574 + 4 * vector : ITR) & 0xffff) * 256ULL;
}

/* How long until a vector may fire? 0: now. */
static uint64_t must_wait(const struct intel_nic *nic, const struct intel_when *when, enum intel_way way,
			  unsigned vector, uint64_t spacing)
{
	uint64_t fired = atomic_load_explicit(&nic->interrupts.fired[vector], memory_order_relaxed);
	uint64_t distance = interval(nic, way, vector), since;

	distance = max(distance, spacing);
	if (!distance || !fired)
		return 0;
	if (!when->sidecore && !intel_nic_looked_after(nic)) /* nobody could look again */
		return 0;
	/* Clocks of rounds are a little behind: what fired after ours began has just fired. */
	since = when->now > fired ? when->now - fired : 0;
	return since < distance ? distance - since : 0;
}

/* Look again after @delay. The control thread has no timers: lane 0 looks, which it is woken for. */
static void look_again(struct intel_nic *nic, const struct intel_when *when, uint64_t delay)
{
	struct intel_timer *own;

	if (!when->sidecore) {
		intel_nic_kick(nic);
		return;
	}
	own = &nic->timers[sidecore_index(when->sidecore)];
	if (own->timer.position == ENGINE_TIMER_IDLE || own->timer.deadline > when->now + delay)
		sidecore_timer_set(when->sidecore, &own->timer, when->now + delay);
}

/* ---- the line ---- */

static void signal_message(struct intel_nic *nic, const struct intel_when *when, int vector)
{
	struct intel_interrupts *interrupts = &nic->interrupts;

	if (unlikely(vector < 0)) /* IVAR has just changed */
		return;
	atomic_store_explicit(&interrupts->fired[vector], when->now, memory_order_relaxed);
	atomic_fetch_add_explicit(&interrupts->assertions, 1, memory_order_relaxed);
	pci_interrupt_message(&nic->device.interrupts, (unsigned)vector, when->notifier);
}

/*
 * Bring the pin to where the word says. Each caller looks again after it set the level: so whoever sets it last has
 * seen the last change of the word, or would set it once more.
 */
static void set_pin(struct intel_nic *nic, const struct intel_when *when)
{
	bool level, now = atomic_load(&nic->interrupts.legacy) & ICR_INT_ASSERTED;

	do {
		level = now;
		pci_interrupt_pin(&nic->device.interrupts, level, when->notifier);
		now = atomic_load(&nic->interrupts.legacy) & ICR_INT_ASSERTED;
	} while (now != level);
}

/* Causes or mask have changed: assert, or not any more. @spacing: see must_wait() */
void intel_line_update(struct intel_nic *nic, const struct intel_when *when, uint64_t spacing)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	uint64_t word = atomic_load(&interrupts->legacy), next, delay;
	enum pci_interrupt_kind kind = pci_interrupts_kind(&nic->device.interrupts);
	bool due;

	do {
		due = causes_of(word) & mask_of(word) & ~ICR_INT_ASSERTED;
		if (due == !!(word & ICR_INT_ASSERTED))
			return;
		delay = due ? must_wait(nic, when, WAY_LINE, 0, spacing) : 0;
		if (delay) {
			atomic_store(&interrupts->line_deferred, true);
			look_again(nic, when, delay);
			return;
		}
		next = word ^ ICR_INT_ASSERTED;
	} while (!atomic_compare_exchange_weak(&interrupts->legacy, &word, next));

	if (kind == PCI_INTERRUPT_PIN) {
		if (due) {
			atomic_store_explicit(&interrupts->fired[0], when->now, memory_order_relaxed);
			atomic_fetch_add_explicit(&interrupts->assertions, 1, memory_order_relaxed);
		}
		set_pin(nic, when);
	} else if (due) {
		signal_message(nic, when, 0);
	}
}

/* The control thread has taken INT_ASSERTED away: the pin follows, and what is left is asserted again. */
void intel_line_answered(struct intel_nic *nic, const struct intel_when *when)
{
	if (pci_interrupts_kind(&nic->device.interrupts) == PCI_INTERRUPT_PIN)
		set_pin(nic, when);
	if (intel_way_out(nic) == WAY_LINE)
		intel_line_update(nic, when, 0);
}

/* ---- vectors ---- */

/* What a cause that fires clears, of itself and of its mask. */
static void auto_clear(const struct intel_nic *nic, enum intel_way way, uint32_t fire, uint32_t *causes, uint32_t *mask)
{
	uint32_t own, control;

	if (way == WAY_82576) {
		*causes &= ~fire; /* in any case: see above */
		if (intel_page_load(nic, GPIE) & GPIE_EIAME)
			*mask &= ~(fire & intel_page_load(nic, EIAM));
		return;
	}
	own = fire & intel_load(nic, EIAC_82574);
	control = intel_load(nic, CTRL_EXT);
	*causes &= ~own;
	*causes |= fire & ICR_OTHER ? ICR_INT_ASSERTED : 0;
	if (!(control & CTRL_EXT_IAME))
		*mask &= ~own;
	if (control & CTRL_EXT_EIAME)
		*mask &= ~(fire & intel_load(nic, IAM));
}

/* Of the causes @ready, those whose time has come. @deferred: the others; @delay: until the first of these */
static uint32_t in_time(const struct intel_nic *nic, const struct intel_when *when, enum intel_way way, uint32_t ready,
			uint64_t spacing, uint32_t *deferred, uint64_t *delay)
{
	uint32_t fire = 0;

	*deferred = 0;
	*delay = UINT64_MAX;
	for (; ready; ready &= ready - 1) {
		unsigned bit = (unsigned)__builtin_ctz(ready);
		int vector = vector_of(nic, bit);
		uint64_t wait;

		if (vector < 0)
			continue;
		wait = must_wait(nic, when, way, (unsigned)vector, spacing);
		if (!wait) {
			fire |= 1U << bit;
			continue;
		}
		*deferred |= 1U << bit;
		*delay = min(*delay, wait);
	}
	return fire;
}

/* Of the causes in @try, send those that are pending, not masked and in time. */
void intel_vectors_fire(struct intel_nic *nic, const struct intel_when *when, enum intel_way way, uint32_t try,
			uint64_t spacing)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	_Atomic uint64_t *pair = way == WAY_82576 ? &interrupts->extended : &interrupts->legacy;
	uint64_t word = atomic_load(pair), delay;
	uint32_t fire, deferred, causes, mask;

	do {
		fire = in_time(nic, when, way, try & causes_of(word) & mask_of(word), spacing, &deferred, &delay);
		causes = causes_of(word);
		mask = mask_of(word);
		auto_clear(nic, way, fire, &causes, &mask);
	} while (fire && !atomic_compare_exchange_weak(pair, &word, word_of(causes, mask)));

	if (way == WAY_82576 && fire) {
		uint32_t shown = fire & ~intel_page_load(nic, EIAC);

		atomic_fetch_or(&interrupts->resting, fire & ~mask);
		if (unlikely(shown))
			intel_page_store(nic, EICR, shown);
	}
	for (; fire; fire &= fire - 1)
		signal_message(nic, when, vector_of(nic, (unsigned)__builtin_ctz(fire)));
	if (unlikely(deferred)) {
		atomic_fetch_or(&interrupts->deferred, deferred);
		look_again(nic, when, delay);
	}
}

/* Causes become pending, and fire if they were not. */
void intel_vectors_raise(struct intel_nic *nic, const struct intel_when *when, enum intel_way way, uint32_t causes,
			 uint64_t spacing)
{
	_Atomic uint64_t *pair = way == WAY_82576 ? &nic->interrupts.extended : &nic->interrupts.legacy;
	uint32_t before, new;

	/*
	 * The fence: descriptors are written back before the look at the causes. Who finds its cause pending may leave
	 * it at that, since it will fire when it is unmasked, or fires just now, and then the driver sees the
	 * descriptors.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	before = causes_of(atomic_load_explicit(pair, memory_order_relaxed));
	if (!(causes & ~before)) /* nearly always while the driver polls */
		return;
	new = causes & ~causes_of(atomic_fetch_or(pair, causes));
	intel_vectors_fire(nic, when, way, way == WAY_82574 ? new &CAUSES_82574 : new, spacing);
}

/* ---- causes ---- */

/* The vector for other causes (IVAR_MISC 15:8). Return: its bit of EICR; 0: none. */
uint32_t intel_vector_of_other(const struct intel_nic *nic)
{
	uint32_t field = intel_page_load(nic, IVAR_MISC) >> 8 & 0xff;

	return field & IVAR_VALID ? (1U << (field & 31)) & EXTENDED_CAUSES : 0;
}

/* The vector of a queue (IVAR). Return: its bit of EICR; 0: none. */
static uint32_t queue_vector(const struct intel_nic *nic, bool receive, unsigned queue)
{
	unsigned byte = (queue >= 8 ? 2U : 0U) + !receive;
	uint32_t field = intel_page_load(nic, IVAR + 4 * (queue & 7)) >> 8 * byte & 0xff;

	return field & IVAR_VALID ? (1U << (field & 31)) & EXTENDED_CAUSES : 0;
}

void intel_raise(struct intel_nic *nic, const struct intel_when *when, uint32_t causes)
{
	enum intel_way way = intel_way_out(nic);
	uint64_t word = atomic_fetch_or(&nic->interrupts.legacy, causes & ~ICR_INT_ASSERTED);

	switch (way) {
	case WAY_LINE:
		intel_line_update(nic, when, 0);
		break;
	case WAY_82574: /* bit 24 is set with any other cause that is not masked (82574 10.2.4.1) */
		if (causes & mask_of(word) & ~CAUSES_82574)
			intel_vectors_raise(nic, when, way, ICR_OTHER, 0);
		intel_vectors_fire(nic, when, way, causes & CAUSES_82574, 0);
		break;
	case WAY_82576:
		if (causes & mask_of(word))
			intel_vectors_raise(nic, when, way, intel_vector_of_other(nic), 0);
		break;
	}
}

void intel_raise_queue(struct intel_nic *nic, const struct intel_when *when, bool receive, unsigned queue,
		       uint64_t spacing)
{
	uint32_t cause = receive ? ICR_RXT0 : ICR_TXDW;
	enum intel_way way = intel_way_out(nic);

	switch (way) {
	case WAY_LINE:
		atomic_fetch_or(&nic->interrupts.legacy, cause);
		intel_line_update(nic, when, spacing);
		break;
	case WAY_82574:
		intel_vectors_raise(nic, when, way, cause | (receive ? ICR_RXQ0 : ICR_TXQ0) << queue, spacing);
		break;
	case WAY_82576:
		intel_vectors_raise(nic, when, way, queue_vector(nic, receive, queue), spacing);
		break;
	}
}

/* ---- what waits for its time ---- */

void intel_interrupts_expire(struct sidecore *sidecore, struct engine_timer *timer)
{
	struct intel_nic *nic = container_of(timer, struct intel_timer, timer)->nic;
	struct intel_interrupts *interrupts = &nic->interrupts;
	struct intel_when when = { .sidecore = sidecore,
				   .notifier = sidecore_notifier(sidecore),
				   .now = max(clock_nanoseconds(), timer->deadline) };
	enum intel_way way = intel_way_out(nic);
	uint32_t deferred = atomic_exchange(&interrupts->deferred, 0);

	if (deferred && way != WAY_LINE)
		intel_vectors_fire(nic, &when, way, deferred, 0);
	if (atomic_exchange(&interrupts->line_deferred, false) && way == WAY_LINE)
		intel_line_update(nic, &when, 0);
}

/* ---- registers in mapped pages (82576) ---- */

/* Take what the driver stored into EIMS, and leave the mask there. Return: its bits; 0: nothing. */
static uint32_t take_mask(struct intel_nic *nic)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	uint32_t ours = atomic_load_explicit(&interrupts->shown_mask, memory_order_relaxed), value;
	uint32_t show = mask_of(atomic_load_explicit(&interrupts->extended, memory_order_relaxed)) | MARK;

	if (likely(ours == show && intel_page_load(nic, EIMS) == ours))
		return 0;
	atomic_store_explicit(&interrupts->shown_mask, show, memory_order_relaxed);
	value = intel_page_exchange(nic, EIMS, show);
	return value == ours ? 0 : value & EXTENDED_CAUSES;
}

static uint32_t take(struct intel_nic *nic, uint32_t offset)
{
	if (likely(!intel_page_load(nic, offset)))
		return 0;
	return intel_page_exchange(nic, offset, 0) & EXTENDED_CAUSES;
}

/* The driver has unmasked @bits. The others that rest may have been unmasked just before, in vain: see above. */
static void unmask_extended(struct intel_nic *nic, const struct intel_when *when, uint32_t bits)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	uint32_t suspects = atomic_fetch_and(&interrupts->resting, ~bits) & ~bits;

	atomic_fetch_and(&interrupts->suspects, ~bits);
	if (suspects & ~atomic_fetch_or(&interrupts->suspects, suspects))
		atomic_store(&interrupts->suspects_since, when->now);
	atomic_fetch_or(&interrupts->extended, word_of(0, bits));
	intel_vectors_fire(nic, when, WAY_82576, bits, 0);
}

static void look_at_suspects(struct intel_nic *nic, const struct intel_when *when)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	uint32_t suspects = atomic_load(&interrupts->suspects) & causes_of(atomic_load(&interrupts->extended));

	if (!suspects || when->now < atomic_load(&interrupts->suspects_since) + SUSPICION_NS)
		return;
	atomic_fetch_and(&interrupts->suspects, ~suspects);
	suspects &= atomic_fetch_and(&interrupts->resting, ~suspects);
	atomic_fetch_or(&interrupts->extended, word_of(0, suspects));
	intel_vectors_fire(nic, when, WAY_82576, suspects, 0);
}

bool intel_interrupts_take(struct intel_nic *nic, const struct intel_when *when)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	uint32_t set, mask, unmask;

	if (nic->variant->generation != INTEL_82576)
		return false;
	mask = take(nic, EIMC);
	if (mask) {
		atomic_fetch_and(&interrupts->extended, ~word_of(0, mask));
		atomic_fetch_and(&interrupts->resting, ~mask);
		atomic_fetch_and(&interrupts->suspects, ~mask);
	}
	unmask = take_mask(nic);
	if (unmask)
		unmask_extended(nic, when, unmask);
	set = take(nic, EICS);
	if (set)
		intel_vectors_raise(nic, when, WAY_82576, set, 0);
	return mask | unmask | set;
}

/* The control thread left something to lane 0, on @home, or the timer of a sidecore was lost in a rest. */
static bool left_over(const struct intel_nic *nic, const struct sidecore *home)
{
	const struct intel_interrupts *interrupts = &nic->interrupts;

	return (atomic_load(&interrupts->deferred) || atomic_load(&interrupts->line_deferred)) &&
	       nic->timers[sidecore_index(home)].timer.position == ENGINE_TIMER_IDLE;
}

bool intel_interrupts_waiting(const struct intel_nic *nic, const struct sidecore *home)
{
	const struct intel_interrupts *interrupts = &nic->interrupts;

	if (left_over(nic, home))
		return true;
	if (nic->variant->generation != INTEL_82576)
		return false;
	return intel_page_load(nic, EIMC) || intel_page_load(nic, EICS) ||
	       intel_page_load(nic, EIMS) != atomic_load_explicit(&interrupts->shown_mask, memory_order_relaxed);
}

void intel_interrupts_look(struct intel_nic *nic, const struct intel_when *when)
{
	intel_interrupts_take(nic, when);
	if (unlikely(atomic_load_explicit(&nic->interrupts.suspects, memory_order_relaxed)))
		look_at_suspects(nic, when);
	if (unlikely(left_over(nic, when->sidecore)))
		look_again(nic, when, 0);
}

void intel_interrupts_reset(struct intel_nic *nic)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	struct intel_when when = intel_when_control(nic);

	atomic_store(&interrupts->legacy, 0);
	atomic_store(&interrupts->extended, 0);
	atomic_store(&interrupts->deferred, 0);
	atomic_store(&interrupts->line_deferred, false);
	atomic_store(&interrupts->resting, 0);
	atomic_store(&interrupts->suspects, 0);
	for (unsigned i = 0; i < INTEL_VECTORS_MAX; i++)
		atomic_store(&interrupts->fired[i], 0);
	if (nic->variant->generation == INTEL_82576) {
		intel_page_store(nic, EIMS, MARK);
		atomic_store(&interrupts->shown_mask, MARK);
	}
	pci_interrupt_pin(&nic->device.interrupts, false, when.notifier);
}
