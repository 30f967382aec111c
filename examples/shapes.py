"""Simple shapes. The demo fills the hole that is left in `Rectangle.__init__`."""


class Rectangle:
    def __init__(self, width, height):
        self.width = width
        self.

    def area(self):
        return self.width * self.height

    def perimeter(self):
        return 2 * (self.width + self.height)
