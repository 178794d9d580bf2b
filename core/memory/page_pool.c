/*
 * The page pool: a stack of free 4 KiB pages, linked through the pages themselves.
 * Pure. A page comes out zeroed; nothing is known here about what pages are used for. A free page holds
 * nothing but the link, so it must not be one that the guest can write.
 */
#include "core/memory/mem.h"

static uint64_t *pool_link(hpa_t page) { return hpa_ptr(page); }

static void pool_push(struct page_pool *pool, uint64_t page)
{
    *pool_link(hpa(page)) = pool->free_head;
    pool->free_head = page;
    pool->free_count++;
}

void pool_add(struct page_pool *pool, hpa_t start, uint64_t size)
{
    if (start.v == 0 || start.v % PAGE_SIZE || size % PAGE_SIZE)
        panic("page pool: range %llx+%llx is not made of pages", (unsigned long long)start.v, (unsigned long long)size);
    /* From the top, so that pages come out in ascending order. */
    for (uint64_t offset = size; offset > 0; offset -= PAGE_SIZE)
        pool_push(pool, start.v + offset - PAGE_SIZE);
    pool->total += (uint32_t)(size / PAGE_SIZE);
}

hpa_t pool_alloc(struct page_pool *pool)
{
    hpa_t page = hpa(pool->free_head);
    if (page.v == 0)
        return page;
    pool->free_head = *pool_link(page);
    pool->free_count--;
    memset(hpa_ptr(page), 0, PAGE_SIZE);
    return page;
}

void pool_free(struct page_pool *pool, hpa_t page)
{
    if (page.v == 0 || page.v % PAGE_SIZE)
        panic("page pool: %llx is not a page", (unsigned long long)page.v);
    if (pool->free_count >= pool->total)
        panic("page pool: page %llx freed twice", (unsigned long long)page.v);
    pool_push(pool, page.v);
}
