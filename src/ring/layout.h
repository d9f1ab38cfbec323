/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the two layouts implement for ring/virtqueue.c, each in a file of its own: split.c (virtio 1.3 2.7) and packed.c
 * (2.8). Contracts are those of the public functions of the same name.
 */
#ifndef RING_LAYOUT_H
#define RING_LAYOUT_H

#include "ring/virtqueue.h"

/*
 * *_publish: there is something to publish. *_interrupt_wanted: does the driver want one for what was used after
 * used_settled and up to used_published, which is something? The answer "no" counts only behind a full fence.
 */

unsigned split_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool);
void split_unpop(struct virtqueue *queue, const struct chain *chain);
bool split_pending(struct virtqueue *queue);
void split_push(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count);
void split_publish(struct virtqueue *queue);
bool split_interrupt_wanted(const struct virtqueue *queue);
void split_arm(struct virtqueue *queue);
void split_disarm(struct virtqueue *queue);

unsigned packed_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool);
void packed_unpop(struct virtqueue *queue, const struct chain *chain);
bool packed_pending(struct virtqueue *queue);
void packed_push(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count);
void packed_publish(struct virtqueue *queue);
bool packed_interrupt_wanted(const struct virtqueue *queue);
void packed_arm(struct virtqueue *queue);
void packed_disarm(struct virtqueue *queue);

#endif
