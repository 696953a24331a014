# A guest that touches memory and says what the CPU did. Entered by PVH (32-bit protected mode, paging off) at its
# first byte, which is at 1 MiB; the test that writes the image around it (image.rs) has the numbers below, too.
#
# It goes through batches. A batch has a root, and what CR0, CR4 and EFER shall be; then addresses, each with a
# kind of access, which ring 0 makes here, and ring 3 in a page of its own. What came of it stands in the results:
# for a batch the registers as they were, for an access the word that was read, CR2, the vector and error code,
# and where the CPU was.

.set HIGH, 0xffffff8000000000           # where all roots map the first 8 MiB for ring 0
.set USER, 0x00007f8000000000           # where they map the two pages of ring 3
.set IMAGE, 0x100000
.set RING_3_CODE, 0x107000
.set BOOT_ROOT, 0x110000                # PML5, and behind it the PML4
.set LEVELS, 0x10fff8                   # 4 or 5, by the test
.set BATCHES, 0x140000
.set RESULTS, 0x400000
.set DOORBELL, 0xd00
.set SERIAL, 0x3f8
.set DEBUG_EXIT, 0xf4

.set SUCCESS, 0xff

.section .text.start, "ax"
.code32
.globl _start
_start:
    cli
    cld
    lgdt gdt_pointer
    movl %cr4, %eax
    orl $0x20, %eax                     # PAE
    movl $(BOOT_ROOT + 0x1000), %ecx
    cmpl $5, LEVELS
    jne 1f
    orl $0x1000, %eax                   # LA57
    movl $BOOT_ROOT, %ecx
1:  movl %eax, %cr4
    movl %ecx, %cr3
    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $0x100, %eax                    # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax               # PG, PE
    movl %eax, %cr0
    ljmp $0x08, $long_mode

.code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movabsq $(HIGH), %rdx
    leaq high(%rdx), %rax
    jmp *%rax
high:
    leaq stack_top(%rdx), %rsp

    # The interrupt descriptor table: 32 gates, all to stubs of 16 bytes.
    leaq stubs(%rdx), %rax
    leaq idt(%rdx), %rdi
    movl $32, %ecx
1:  movw %ax, (%rdi)
    movw $0x08, 2(%rdi)
    movw $0x8e00, 4(%rdi)               # a gate of ring 0, interrupts off
    movq %rax, %rbx
    shrq $16, %rbx
    movw %bx, 6(%rdi)
    shrq $16, %rbx
    movl %ebx, 8(%rdi)
    movl $0, 12(%rdi)
    addq $16, %rax
    addq $16, %rdi
    decl %ecx
    jnz 1b

    # The task state segment: where ring 3's exceptions have their stack.
    leaq stack_top(%rdx), %rax
    movq %rax, tss + 4(%rdx)
    leaq tss(%rdx), %rax
    movw $103, gdt_tss(%rdx)
    movw %ax, gdt_tss + 2(%rdx)
    shrq $16, %rax
    movb %al, gdt_tss + 4(%rdx)
    movb $0x89, gdt_tss + 5(%rdx)
    movb $0, gdt_tss + 6(%rdx)
    movb %ah, gdt_tss + 7(%rdx)
    shrq $16, %rax
    movl %eax, gdt_tss + 8(%rdx)

    leaq gdt(%rdx), %rax
    movq %rax, gdt_pointer + 2(%rdx)
    lgdt gdt_pointer(%rdx)
    leaq idt(%rdx), %rax
    movq %rax, idt_pointer + 2(%rdx)
    lidt idt_pointer(%rdx)
    movl $0x28, %eax
    ltr %ax

    # What the CPU has: CPUID 7.0 EBX, 0x80000001 EDX, 0x80000008 EAX.
    movabsq $(HIGH + RESULTS), %rdi
    xorl %ecx, %ecx
    movl $7, %eax
    cpuid
    movq %rbx, (%rdi)
    andl $0x100080, %ebx                # SMAP, SMEP
    shrl $7, %ebx                       # now bits 13 and 0
    movl %ebx, %r15d
    andl $1, %r15d
    shll $20, %r15d
    andl $0x2000, %ebx
    shll $8, %ebx
    orl %ebx, %r15d                     # bits of CR4 that may be set
    movl $0x80000001, %eax
    cpuid
    movq %rdx, 8(%rdi)
    movl $0x80000008, %eax
    cpuid
    movq %rax, 16(%rdi)
    movq $0, 24(%rdi)
    addq $32, %rdi

    movabsq $(HIGH + BATCHES), %r8
    movq (%r8), %rbp
    addq $8, %r8

# RBP batches are left; the next is at R8: CR3, CR0's bits, CR4's bits, EFER's bits, how many accesses.
batch:
    testq %rbp, %rbp
    jz done
    decq %rbp
    movl $0xc0000080, %ecx
    rdmsr
    andl $~0x800, %eax                  # NXE
    orl 24(%r8), %eax
    wrmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, 24(%rdi)
    movq %cr4, %rax
    andq $~0x300000, %rax               # SMEP, SMAP
    movq 16(%r8), %rcx
    andq %r15, %rcx
    orq %rcx, %rax
    movq %rax, %cr4
    movq %rax, 16(%rdi)
    movq %cr0, %rax
    andq $~0x10000, %rax                # WP
    orq 8(%r8), %rax
    movq %rax, %cr0
    movq %rax, (%rdi)
    movq (%r8), %rax
    movq %rax, %cr3
    movq %rax, 8(%rdi)
    movq 32(%r8), %rsi
    addq $40, %r8
    addq $32, %rdi

# RSI accesses are left; the next is at R8: address, kind (0 read, 1 write, 2 fetch; 4 more in ring 3), and above
# its low byte the one that a write writes: the one that is there.
next:
    testq %rsi, %rsi
    jz batch
    decq %rsi
    movq (%r8), %rbx
    movq 8(%r8), %rcx
    addq $16, %r8
    xorl %eax, %eax
    testb $4, %cl
    jnz in_ring_3
    cmpb $1, %cl
    je 1f
    cmpb $2, %cl
    je 2f
    movq (%rbx), %rax
    jmp went_well
1:  movb %ch, (%rbx)
    jmp went_well
2:  call *%rbx
went_well:
    movl $SUCCESS, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r14d, %r14d
record:
    movq %rax, (%rdi)
    movq %r14, 8(%rdi)
    shlq $8, %r11
    orq %r11, %r10
    movq %r10, 16(%rdi)
    movq %r12, 24(%rdi)
    addq $32, %rdi
    jmp next

in_ring_3:
    movabsq $(USER), %rdx
    leaq 0x2000(%rdx), %rax
    pushq $0x1b                         # SS
    pushq %rax                          # RSP: the end of the second page
    pushq $2                            # RFLAGS: interrupts off
    pushq $0x23                         # CS
    pushq %rdx                          # RIP: the first page
    xorl %eax, %eax
    iretq

exception:
    popq %r10                           # vector
    popq %r11                           # error code
    popq %r12                           # RIP
    popq %r13                           # CS
    movq %cr2, %r14
    leaq stack_top(%rip), %rsp
    movabsq $(USER), %rcx
    addq $(ring_3_done - ring_3), %rcx
    cmpq %rcx, %r12
    je went_well                        # the `ud2` behind an access that went well
    xorl %eax, %eax
    jmp record

done:
    movl $1, %eax
    movl $DOORBELL, %edx
    outl %eax, %dx
    movabsq $(HIGH + RESULTS), %rsi
    movl $SERIAL, %edx
1:  movb (%rsi), %al
    outb %al, %dx
    incq %rsi
    cmpq %rdi, %rsi
    jne 1b
    xorl %eax, %eax
    movl $DEBUG_EXIT, %edx
    outl %eax, %dx
2:  hlt
    jmp 2b

    .balign 16
stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .set vector, vector + 1
    .endr

    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: ring 0's code
    .quad 0x00cf93000000ffff            # 0x10: its data
    .quad 0x00cff3000000ffff            # 0x18: ring 3's data
    .quad 0x00affb000000ffff            # 0x20: its code
gdt_tss:
    .quad 0, 0                          # 0x28
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad 0
    .balign 16
idt:
    .fill 64, 8, 0
tss:
    .fill 26, 4, 0
    .balign 16
    .fill 256, 8, 0
stack_top:

    .org RING_3_CODE - IMAGE
ring_3:
    cmpb $5, %cl
    je 1f
    cmpb $6, %cl
    je 2f
    movq (%rbx), %rax
    jmp ring_3_done
1:  movb %ch, (%rbx)
    jmp ring_3_done
2:  call *%rbx
ring_3_done:
    ud2
    .org RING_3_CODE - IMAGE + 0x1000
